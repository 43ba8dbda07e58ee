"""Whether the checkpoint of a run is the network that its score was measured of."""

from collections.abc import Mapping, Sequence
from typing import Any

from wiring_lightning.checkpoints import read_weights
from wiring_lightning.cli.runs import Run, UnfinishedError


def costs_apart(runs: Sequence[Run], tag: str) -> str | None:
    """A sentence if costs are those of a checkpoint of another step than a score; else `None`.

    Args:
        runs: their costs are those of their last checkpoints.
        tag: name of the score, such as `test/acc`.
    """
    found = [(run, *steps) for run in runs if (steps := _steps_apart(run, tag)) is not None]
    if not found:
        return None
    run, saved, scored = found[0]
    others = "" if len(found) == 1 else f", as in {len(found)} runs"
    return (
        f"The costs of {run.folder} are those of its last checkpoint, of step {saved}, but its "
        f"{tag} is that of step {scored}{others}: keep the end of each epoch, too (a second "
        "ModelCheckpoint, without a monitor)."
    )


def _steps_apart(run: Run, tag: str) -> tuple[int, int] | None:
    """The step of the last checkpoint and that of a score, if they differ."""
    scored = run.last_step(tag)
    try:
        steps = _steps_in(read_weights(run.checkpoint()))
    except UnfinishedError:
        return None
    if not scored or not steps:  # `wiring test` counts no steps
        return None
    # Numbers that a fit logs are those after the next step.
    after = scored if tag.startswith("test/") else scored + 1
    return None if {scored, after} & {*steps} else (steps[0], scored)


def _steps_in(checkpoint: Mapping[str, Any]) -> list[int]:
    """The steps of the optimizers, and of the batches if it tells them: one can have several."""
    fit = (checkpoint.get("loops") or {}).get("fit_loop") or {}
    batches = (fit.get("epoch_loop.state_dict") or {}).get("_batches_that_stepped")
    steps = (checkpoint.get("global_step"), batches)
    return [step for step in steps if isinstance(step, int)]
