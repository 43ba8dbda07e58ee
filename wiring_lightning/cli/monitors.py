"""What is said if `EarlyStopping` ends a run because nothing logs the number that it looks at."""

import traceback
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping


def explain_monitor(error: Exception, trainer: Trainer) -> None:
    """Raise one sentence for the `RuntimeError` of a number that is missing; pass others over.

    Args:
        error: what ended a command.
        trainer: of that command.

    Raises:
        MisconfigurationException: if `EarlyStopping` itself has raised the error.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_by: Any = frames[-1].f_locals.get("self") if frames else None
    of_its_file = bool(frames) and frames[-1].f_globals.get("__name__") == EarlyStopping.__module__
    if not isinstance(error, RuntimeError) or not of_its_file:
        return
    if isinstance(raised_by, EarlyStopping) and raised_by.monitor not in trainer.callback_metrics:
        there = ", ".join(sorted(trainer.callback_metrics)) or "none"
        raise MisconfigurationException(
            f"{type(raised_by).__name__} looks at {raised_by.monitor}, which was not logged: let "
            f"its monitor be one of the numbers that were ({there})."
        ) from error
