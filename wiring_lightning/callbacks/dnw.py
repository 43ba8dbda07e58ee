"""Discovering Neural Wirings as a callback for any LightningModule."""

from collections.abc import Sequence

from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._timed_layers import TimedLayers
from wiring_lightning.callbacks.sparse_layers import SparseGroup
from wiring_lightning.functional.densities import Distribution
from wiring_lightning.functional.mask_times import Decay
from wiring_lightning.optim import StraightThrough


class DNW(TimedLayers[StraightThrough]):
    """Train sparse weights and learn which of them to keep, in one run (DNW, Algorithm 1).

    At every step the sparse layers have k non-zero weights: those of largest magnitude. Absent
    weights still get a gradient and can come back (see `optim.StraightThrough`); your optimizer
    updates all weights as usual. Biases and norms stay dense. The network's checkpoint holds the
    sparse weights; the latent weights are part of this callback's state.

    Neural graphs (`nn.Adjacency`, in `backbones.NeuralGraph` and `MobileNetV1DNW`) define their
    possible edges and how many to keep: `DNW()` learns them. For any other network, choose the
    sparse layers and a density.

    The density can fall step by step, from `initial_density` at the beginning to its final value.

    Args:
        density: share of the weights to keep in every layer or group, above 0 and up to 1; or
            shares by pattern, as in `layers`, of which the first that matches a layer counts.
            Layers that no pattern matches then stay dense, unless `layers` names them. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group, instead of a density.
        layers: the sparse weights, as names of classes such as `Conv2d` (subclasses included), or
            patterns for the qualified names of modules such as `backbone.layer4.*`, or of
            parameters such as `encoder.lstm.weight_*`. Biases and norms stay dense. By default the
            graphs of the network, or all convolutions and linear layers if it has no graph.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group. The layers of a group share one
            number of edges, so edges can move between them. Layers in no group have their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.
        exclude: patterns as in `layers` of weights that stay dense in any case.
        log_density: whether to log, after every epoch, the share of the weights that are there,
            the share of them that is new, and dead rows and columns; see `SparseLayers`.
        distribution: how the density is shared out among layers. `uniform`: each has it. `erk` and
            `erdos_renyi`: small layers are denser, with or without regard to the size of kernels,
            and all together have the density (`functional.erdos_renyi_densities`). `global`: all
            layers share one number of edges, as one group.
        last_dense: whether the last of these layers stays dense.
        min_edges: how many weights every layer keeps at least, inside of a group, too.
        vectors: patterns of parameters of one axis that are sparse, too, by the name of the
            parameter or the class or name of its layer, such as `*.bias` or `BatchNorm2d`.
        initial_density: density at the beginning of all layers, not below the final one, which it
            is if not given.
        density_decay: how the density falls: `linear`, `cosine` or `cubic`.
        every: number of optimizer steps from one density to the next.
        start: the share of the training after which the density begins to fall.
        until: the share of the training after which it has its final value.
        total_steps: number of optimizer steps from the first one of this callback to the end of
            the training; by default what the trainer says.

    Raises:
        MisconfigurationException: as for `SparseLayers`; if a number or a name is out of range; or
            if the density falls and the length of the training is not known.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DNW(density=0.1, first_dense=True)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        density: float | dict[str, float] | None = None,
        edges: int | None = None,
        layers: Sequence[str] | None = None,
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
        exclude: Sequence[str] = (),
        log_density: bool = False,
        distribution: Distribution = "uniform",
        last_dense: bool = False,
        min_edges: int = 0,
        vectors: Sequence[str] = (),
        initial_density: float | None = None,
        density_decay: Decay = "cubic",
        every: int = 1,
        start: float = 0.0,
        until: float = 0.75,
        total_steps: int | None = None,
    ) -> None:
        super().__init__(
            every, start, until, initial_density, density_decay, total_steps,
            density=density, edges=edges, layers=layers, first_dense=first_dense, groups=groups,
            freeze_epoch=freeze_epoch, exclude=exclude, log_density=log_density,
            distribution=distribution, last_dense=last_dense, min_edges=min_edges, vectors=vectors,
        )  # fmt: skip

    @property
    @override
    def has_times(self) -> bool:
        return self.initial_density is not None

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> StraightThrough:
        times = self.make_times(self._length) if self.has_times else None
        return StraightThrough(optimizer, [group.edge_set() for group in groups], times)
