"""A callback that acts when all others have seen the end of a fit, or an exception."""

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class LastOfAll(Callback):
    """Calls a function after the last hook of all other callbacks, and leaves the trainer.

    It joins in that hook, `teardown` or `on_exception`, while Lightning goes through the list.

    Args:
        function: what is called, with whether there was an exception.
    """

    def __init__(self, function: Callable[[bool], None]) -> None:
        self._function = function

    def join(self, trainer: Trainer) -> None:
        """Join the callbacks, before those of its kind: what was done last is undone first."""
        callbacks = trainer.callbacks
        others = [number for number, one in enumerate(callbacks) if isinstance(one, LastOfAll)]
        callbacks.insert(min(others, default=len(callbacks)), self)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._act(trainer, failed=False)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._act(trainer, failed=True)

    def _act(self, trainer: Trainer, failed: bool) -> None:
        # Not in place: Lightning is still going through the list.
        trainer.callbacks = [callback for callback in trainer.callbacks if callback is not self]
        self._function(failed)
