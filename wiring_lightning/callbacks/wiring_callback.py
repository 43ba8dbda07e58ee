"""What all callbacks that learn a wiring have in common."""

from abc import ABC, abstractmethod

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class WiringCallback(Callback, ABC):
    """A callback that learns a wiring; `PhaseSchedule` steers it through `set_lr` and `freeze`.

    Args:
        freeze_epoch: from the start of this epoch the wiring is fixed; never if not given.

    Raises:
        MisconfigurationException: if `freeze_epoch` is negative.
    """

    freeze_epoch: int | None = None

    def __init__(self, freeze_epoch: int | None = None) -> None:
        if freeze_epoch is not None and freeze_epoch < 0:
            raise MisconfigurationException(
                f"{type(self).__name__}: freeze_epoch must not be negative, got {freeze_epoch}."
            )
        self.freeze_epoch = freeze_epoch

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the scores behind the wiring."""

    @abstractmethod
    def freeze(self) -> None:
        """Fix the wiring for good; calling it again changes nothing."""

    def let_go(self) -> None:
        """Leave the optimizers and the trainer alone: the fit is over, or has failed."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze_if_due(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze_if_due(trainer)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.let_go()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.let_go()  # Lightning calls no teardown then

    def _freeze_if_due(self, trainer: Trainer) -> None:
        if self.freeze_epoch is not None and trainer.current_epoch >= self.freeze_epoch:
            self.freeze()
