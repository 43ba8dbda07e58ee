"""Whether the callbacks of a trainer look at numbers that a validation logs."""

from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint


def check_validation_monitors(trainer: Trainer) -> None:
    """Refuse a callback that looks at a number `val/...` which the check before a fit did not log.

    With code of the user's own nobody knows what is logged later, so Lightning says it then.

    Args:
        trainer: at the end of that check, which Lightning calls sanity checking.

    Raises:
        MisconfigurationException: if there is one.
    """
    if any(map(_may_log, (trainer.lightning_module, *trainer.callbacks))):
        return
    for name, monitor in _monitors(trainer):
        if monitor.startswith("val/") and monitor not in trainer.callback_metrics:
            there = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise MisconfigurationException(
                f"{name} looks at {monitor}, which validation does not log: let its monitor be one "
                f"of the numbers that it logs ({there})."
            )


def _may_log(part: object) -> bool:
    """Whether a module or a callback has code that is neither Lightning's nor this package's."""
    package = type(part).__module__.partition(".")[0]
    return package not in ("lightning", "wiring_lightning") or isinstance(part, LambdaCallback)


def _monitors(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """The names of callbacks that cannot do without a number, with its name."""
    for callback in trainer.callbacks:
        needs = isinstance(callback, ModelCheckpoint) or (
            isinstance(callback, EarlyStopping) and callback.strict
        )
        monitor = getattr(callback, "monitor", None) if needs else None
        if monitor is not None:
            yield type(callback).__name__, str(monitor)
