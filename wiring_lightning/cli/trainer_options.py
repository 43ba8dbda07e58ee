"""Options of a trainer, looked at before it is built."""

from collections import Counter
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden

from wiring_lightning._checks import check_counts
from wiring_lightning.callbacks import PhaseSchedule, SparseLayers, WiringCallback
from wiring_lightning.cli.messages import note


def say_what_is_misread(given: Namespace) -> None:
    """Say which numbers Lightning takes for something else than people often think."""
    for name in ("train", "val", "test", "predict"):
        limit = given[f"limit_{name}_batches"]
        if limit == 1 and isinstance(limit, int):
            note(f"limit_{name}_batches: 1 is one batch; 1.0 would be all of them")
    every = given.log_every_n_steps
    if every is not None:
        check_counts(0, 10**9, MisconfigurationException, log_every_n_steps=every)
    batches = given.get("accumulate_grad_batches")
    if isinstance(batches, int):
        check_counts(1, 10**9, MisconfigurationException, accumulate_grad_batches=batches)
    if every == 0:
        note("log_every_n_steps: 0 logs no step, only whole epochs")
    if given.barebones:
        note("barebones: true logs and saves nothing, so the report has no accuracy")


def max_epochs_of(callbacks: Any, subcommand: str) -> dict[str, int]:
    """`max_epochs` where a config need not say it: then Lightning would warn about its own 1000."""
    if subcommand != "fit":
        return {"max_epochs": 1}  # not used
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    schedules = [callback for callback in given if isinstance(callback, PhaseSchedule)]
    return {"max_epochs": schedules[0].max_epochs} if schedules else {}


def check_callbacks(callbacks: Any) -> None:
    """Refuse two callbacks with the same state in words that say what to do, unlike Lightning's.

    Raises:
        MisconfigurationException: if there are two.
    """
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    stateful = [
        callback
        for callback in given
        if isinstance(callback, Callback) and is_overridden("state_dict", callback, Callback)
    ]
    keys = Counter(callback.state_key for callback in stateful)
    for callback in stateful:
        if (count := keys[callback.state_key]) > 1:
            raise MisconfigurationException(
                f"The trainer has {count} {type(callback).__name__} callbacks"
                f"{_reason_and_way_out(callback)}."
            )


def _reason_and_way_out(callback: Callback) -> str:
    """Why there cannot be two of a callback, and what to do."""
    if isinstance(callback, SparseLayers):
        return ": leave one, it learns everything, or give them other `layers`"
    if isinstance(callback, WiringCallback):
        return ": leave one, it learns everything"
    same = " whose states have the same name in a checkpoint"
    if type(callback).state_key is Callback.state_key:
        return f"{same}: leave one"
    return f"{same}, {callback.state_key}: leave one, or change one of these settings"
