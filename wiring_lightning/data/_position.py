"""A data module that continues in the middle of a training epoch."""

from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule
from typing_extensions import override

from wiring_lightning.data.train_loader import TrainLoader

SomeLoader = TypeVar("SomeLoader", bound=TrainLoader)


class PositionedDataModule(LightningDataModule):
    """Puts the position of its training loader into checkpoints, and takes it up again.

    Lightning hands a stateful loader its state as well, but not if ``configure_optimizers`` asked
    for ``trainer.estimated_stepping_batches``: the loader then exists before the checkpoint's
    loader states are known, and they are dropped without a word
    (Lightning-AI/pytorch-lightning#20550). The state of a data module always arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self._train_loader: TrainLoader | None = None
        self._resume_state: dict[str, Any] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training images, for the checkpoint."""
        return {} if self._train_loader is None else self._train_loader.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue training from a position.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        if self.trainer is not None and not self.trainer.training:
            return
        self._resume_state = state_dict
        if self._train_loader is not None:
            self._train_loader.load_state_dict(state_dict)

    def _continued(self, loader: SomeLoader) -> SomeLoader:
        """Follow this training loader; it starts where the checkpoint stood, if there is one."""
        self._train_loader = loader
        if self._resume_state:
            loader.load_state_dict(self._resume_state)
            self._resume_state = {}
        return loader
