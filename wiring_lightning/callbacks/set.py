"""Sparse evolutionary training as a callback for any LightningModule."""

from typing import Any

from wiring_lightning.callbacks.scheduled_masks import MaskSchedule, Unit
from wiring_lightning.optim.mask_scores import Grow


class SET(MaskSchedule):
    """Train sparse from start to end; replace the smallest weights by random ones (SET).

    After every epoch the share `fraction` of the present weights, those of smallest magnitude,
    goes, and as many random ones come, starting at zero. The first edges are random.

    Args:
        fraction: the paper's zeta, the share of the weights that is replaced.
        every: how many epochs, or steps, from one change to the next.
        unit: what `every` counts: `epoch` or `step`.
        until: the share of the training after which nothing changes.
        grow: what comes.
        choice: the other arguments of `MaskSchedule` and `SparseLayers`, such as density, layers
            and `distribution="erdos_renyi"`, which is the paper's.

    Raises:
        MisconfigurationException: as for `MaskSchedule`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> learner = SET(density=0.1, distribution="erdos_renyi")
        >>> trainer = Trainer(callbacks=[learner], max_epochs=20, logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        fraction: float = 0.3,
        every: int = 1,
        unit: Unit = "epoch",
        until: float = 1.0,
        grow: Grow = "random",
        **choice: Any,
    ) -> None:
        super().__init__(
            fraction=fraction, every=every, unit=unit, until=until, grow=grow, **choice
        )
