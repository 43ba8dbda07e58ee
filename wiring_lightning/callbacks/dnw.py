"""Discovering Neural Wirings as a callback for any LightningModule."""

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.optim import StraightThrough


class DNW(SparseLayers):
    """Train sparse weights and find out which of them to keep, in one run (DNW, Algorithm 1).

    The sparse layers hold exactly k weights that are not zero, at every step: those of largest
    magnitude. Absent weights still get their gradient and can come back, see
    `optim.StraightThrough`. Your optimizer updates all of them as usual. Biases and norms stay
    dense. The checkpoint of the network is the sparse network; the latent weights of the absent
    edges are part of this callback's state.

    A network of neural graphs (`nn.Adjacency`, in `backbones.NeuralGraph` and `MobileNetV1DNW`)
    says itself where its edges can be and how many: `DNW()` learns them. In any other network, say
    which layers are sparse and how much of them to keep.

    Args:
        density: share of the weights to keep, above 0 and up to 1, in every layer or group. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group; instead of a density.
        layers: which layers are sparse: names of classes such as `Conv2d`, or patterns for the
            qualified names of modules such as `backbone.layer4.*`. If not given, the graphs of the
            network, or all of its `Conv2d` and `Linear` layers if it has no graph.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group; the layers of a group share one
            number of edges, so that it can move from one to another. Layers in no group have a
            number of their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.

    Raises:
        MisconfigurationException: if a number is out of range, no layer matches, or no optimizer
            holds a layer's weight.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DNW(density=0.1, first_dense=True)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    @property
    @override
    def frozen(self) -> bool:
        return any(isinstance(rule, StraightThrough) and rule.frozen for rule in self._rules)

    @override
    def freeze(self) -> None:
        for rule in self._rules:
            assert isinstance(rule, StraightThrough)
            rule.freeze()
        for graph in self._graphs:
            graph.freeze()

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> StraightThrough:
        return StraightThrough(optimizer, [group.edge_set() for group in groups])
