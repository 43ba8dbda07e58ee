"""Discovering Neural Wirings as a callback for any LightningModule."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks._run_length import RunLength, check_times
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.functional.mask_times import Decay, MaskTimes
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

    The density can fall step by step, from `initial_density` at the beginning to its final value.

    Args:
        initial_density: density at the beginning of all layers; the final one if not given.
        density_decay: how the density falls: `linear`, `cosine` or `cubic`.
        every: number of optimizer steps from one density to the next.
        start: the share of the training after which the density begins to fall.
        until: the share of the training after which it has its final value.
        total_steps: number of optimizer steps of the training; by default what the trainer says.
        choice: the arguments of `SparseLayers`, such as density and layers.

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
        initial_density: float | None = None,
        density_decay: Decay = "cubic",
        every: int = 1,
        start: float = 0.0,
        until: float = 0.75,
        total_steps: int | None = None,
        **choice: Any,
    ) -> None:
        super().__init__(density, edges, **choice)
        self.initial_density, self.density_decay = initial_density, density_decay
        self.every, self.start, self.until = every, start, until
        self.total_steps = total_steps
        check_times(self)
        self._length = RunLength(0, 0)

    _over = False  # whether the training of this fit has ended

    @property
    @override
    def due(self) -> bool:
        return all(rule.due for rule in self._rules)

    @override
    def unfinished(self, epochs: int) -> str | None:
        steps = [rule.times.final_step for rule in self._rules if rule.times and not rule.due]
        if not steps or (0 < max(steps) <= epochs * self._length.epoch and not self._over):
            return super().unfinished(epochs)
        return f"the layers have their final density only after step {max(steps)}"

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> StraightThrough:
        times = None
        if self.initial_density is not None:
            times = MaskTimes(
                end=self._length.step_at(self.until),
                every=self.every,
                start=self._length.step_at(self.start),
                initial_density=self.initial_density,
                density_decay=self.density_decay,
            )
        return StraightThrough(optimizer, [group.edge_set() for group in groups], times)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._over = False
        if self.initial_density is not None:
            self._length = RunLength.of(trainer, self.total_steps, False, self.mistake)
        super().on_fit_start(trainer, pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if any(
            not rule.due and rule.times and rule.times.changes(rule.steps + 1)
            for rule in self._rules
        ):
            self.remember_checkpoints(trainer)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._over = True
