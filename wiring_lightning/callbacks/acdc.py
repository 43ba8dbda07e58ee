"""Alternating compressed and decompressed training as a callback for any LightningModule."""

from typing import Any

from typing_extensions import override

from wiring_lightning.callbacks._run_length import RunLength
from wiring_lightning.callbacks.scheduled_masks import MaskSchedule, Unit
from wiring_lightning.functional.mask_times import AlternatingTimes
from wiring_lightning.optim.scheduled_masks import First


class ACDC(MaskSchedule):
    """Train dense and sparse by turns, and sparse in the end (AC/DC).

    After a dense beginning, sparse and dense phases of `every` epochs follow each other. A sparse
    phase keeps the k weights of largest magnitude and trains only these. In the dense phase after
    it the others start again from zero. From the share `until` of the training on the network is
    sparse for good. The optimizer's state of what goes or comes starts at zero.

    Args:
        every: length of a phase.
        unit: what `every` counts: `epoch` or `step`.
        start: the share of the training with which the first sparse phase begins.
        until: the share of the training after which the network stays sparse.
        initial_density: density of the dense phases.
        first: how the first weights are chosen if `start` is 0.
        choice: the other arguments of `MaskSchedule` and `SparseLayers`, such as density, layers
            and `distribution="global"`.

    Raises:
        MisconfigurationException: as for `MaskSchedule`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ACDC(density=0.1)], max_epochs=100, logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        every: int = 5,
        unit: Unit = "epoch",
        start: float = 0.1,
        until: float = 0.85,
        initial_density: float = 1.0,
        first: First = "magnitude",
        **choice: Any,
    ) -> None:
        super().__init__(
            every=every,
            unit=unit,
            start=start,
            until=until,
            initial_density=initial_density,
            density_decay="cubic",  # phases do not use it, so it is no argument here
            first=first,
            **choice,
        )

    @override
    def make_times(self, length: RunLength) -> AlternatingTimes:
        return AlternatingTimes(**vars(super().make_times(length)))
