"""A callback that acts when all others have seen an exception."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class LastOfAll(Callback):
    """Calls a function when all other callbacks have seen an exception, and leaves the trainer."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # Not in place: Lightning is still going through the list.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]
        self._function()
