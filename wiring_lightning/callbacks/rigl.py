"""Rigging the Lottery as a callback for any LightningModule."""

from typing import Any

from wiring_lightning.callbacks.scheduled_masks import MaskSchedule
from wiring_lightning.functional.mask_times import Decay


class RigL(MaskSchedule):
    """Train sparse from start to end; move edges to where the gradient is largest (RigL).

    After every `delta_t` steps a share of the present weights, those of smallest magnitude, goes,
    and as many absent ones with the largest gradient come, starting at zero. The share falls from
    `alpha` to zero: `f(t) = alpha / 2 (1 + cos(pi t / T_end))`, where `T_end` is the share `until`
    of the training. The first edges are random.

    Args:
        delta_t: steps from one change to the next; `every` of `MaskSchedule`.
        alpha: the share of the weights that moves at first; `fraction` of `MaskSchedule`.
        until: T_end as a share of the training.
        fraction_decay: how that share falls.
        choice: the other arguments of `MaskSchedule` and `SparseLayers`, such as density, layers
            and `distribution="erk"`.

    Raises:
        MisconfigurationException: as for `MaskSchedule`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RigL(density=0.1, distribution="erk")], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        delta_t: int = 100,
        alpha: float = 0.3,
        until: float = 0.75,
        fraction_decay: Decay = "cosine",
        **choice: Any,
    ) -> None:
        super().__init__(
            every=delta_t, until=until, fraction=alpha, fraction_decay=fraction_decay, **choice
        )
