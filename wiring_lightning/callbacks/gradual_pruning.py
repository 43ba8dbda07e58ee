"""Gradual magnitude pruning as a callback for any LightningModule."""

from typing import Any

from wiring_lightning.callbacks.scheduled_masks import MaskSchedule
from wiring_lightning.functional.mask_times import Decay
from wiring_lightning.optim.scheduled_masks import First


class GradualPruning(MaskSchedule):
    """Prune by magnitude while training, fast at first and then slowly (Zhu and Gupta).

    The sparsity after step t is `s_f + (s_i - s_f) (1 - (t - t_0) / (n Delta t))^3`, from the
    step `t_0` at the share `start` of the training to the last change before the share `until`.
    Weights that are gone do not come back.

    Args:
        every: Delta t, steps from one change to the next.
        start: the share of the training after which pruning begins.
        until: the share of the training after which all that must go is gone.
        initial_density: density at the beginning, `1 - s_i`.
        density_decay: how the density falls.
        first: how the first weights are chosen, if some are to be gone from the start.
        choice: the other arguments of `MaskSchedule` and `SparseLayers`, such as density, layers
            and `distribution="global"`.

    Raises:
        MisconfigurationException: as for `MaskSchedule`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[GradualPruning(density=0.1, start=0.2)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        every: int = 100,
        start: float = 0.0,
        until: float = 0.75,
        initial_density: float = 1.0,
        density_decay: Decay = "cubic",
        first: First = "magnitude",
        **choice: Any,
    ) -> None:
        super().__init__(
            every=every,
            start=start,
            until=until,
            initial_density=initial_density,
            density_decay=density_decay,
            first=first,
            **choice,
        )
