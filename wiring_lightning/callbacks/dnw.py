"""Discovering Neural Wirings as a callback for any LightningModule."""

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.optim import StraightThrough


class DNW(SparseLayers[StraightThrough]):
    """Train sparse weights and learn which of them to keep, in one run (DNW, Algorithm 1).

    At every step the sparse layers have k non-zero weights: those of largest magnitude. Absent
    weights still get a gradient and can come back (see `optim.StraightThrough`); your optimizer
    updates all weights as usual. Biases and norms stay dense. The network's checkpoint holds the
    sparse weights; the latent weights are part of this callback's state.

    Neural graphs (`nn.Adjacency`, in `backbones.NeuralGraph` and `MobileNetV1DNW`) define their
    possible edges and how many to keep: `DNW()` learns them. For any other network, choose the
    sparse layers and a density.

    Arguments and errors are those of `SparseLayers`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DNW(density=0.1, first_dense=True)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> StraightThrough:
        return StraightThrough(optimizer, [group.edge_set() for group in groups])
