"""How long runs have trained, and on how much: by their configs, and by what they have logged."""

from collections.abc import Mapping, Sequence
from typing import Any

from wiring_lightning.cli.config_parts import callbacks_in, class_name
from wiring_lightning.cli.run_keys import epochs_of, flat
from wiring_lightning.cli.runs import Run

LENGTHS = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches",
           "trainer.overfit_batches", "trainer.max_time")  # fmt: skip
# Callbacks that end a training before its length is reached, by what they see.
_STOPPERS = ("EarlyStopping",)
_AVERAGE = "StochasticWeightAveraging"
# The number of the epoch as the command line logs it, and as Lightning does.
_EPOCH = ("wiring/epoch", "epoch")


def lengths(runs: Sequence[Run]) -> list[dict[str, str]]:
    """How long each run has trained, in words; nothing if all were to end by the same rule.

    What a run has done counts where its logs tell it, and not what it was told to do.

    Args:
        runs: at least one.
    """
    rules = [(_asked(run.config), _stoppers(run.config)) for run in runs]
    if rules[0][1] and all(rule == rules[0] for rule in rules):
        return [{} for _ in runs]
    return [{"epochs": _trained(run)} for run in runs]


def has_other_length(run: Run) -> bool:
    """Whether a run has another length than its config says, or may have: nothing tells it."""
    if _epochs_done(run) is None:
        return bool(_limits_by_chance(run.config))
    return _ended_after(run) is not None


def share_of(limit: Any) -> str:
    """How many batches a `limit_..._batches` lets through, in words: 1.0 is all, and 1 is one.

    Example:
        >>> share_of(None), share_of(1.0), share_of(1), share_of(0.5)
        ('all', 'all', '1 batch', '0.5 batches')
    """
    if limit is None or (isinstance(limit, float) and limit == 1):
        return "all"
    one = isinstance(limit, int) and limit == 1
    return f"{limit} batch" if one else f"{limit} batches"


def _asked(config: Mapping[str, Any], done: int | None = None) -> str:
    """How long a config trains, in words; if a run has ended elsewhere, after so many epochs."""
    text = str(epochs_of(config) if done is None else done)
    if (steps := _of_trainer(config, "max_steps")) not in (None, -1) and done is None:
        text += f" or {steps} steps"
    if (share := share_of(_of_trainer(config, "limit_train_batches"))) != "all":
        text += f" of {share}"
    if same := _of_trainer(config, "overfit_batches"):
        text += f" of the same {share_of(same)}"
    return text


def _trained(run: Run) -> str:
    """How long a run has trained, in words, as far as it is known."""
    text = _asked(run.config, _ended_after(run))
    by_chance = _limits_by_chance(run.config) if _epochs_done(run) is None else []
    return " or until ".join([text, *by_chance])


def _ended_after(run: Run) -> int | None:
    """The epochs after which a run has ended, if its config says others; `None` if not told.

    They are more if the config is of a fit that was to be shorter than what was there already.
    """
    done, asked = _epochs_done(run), epochs_of(run.config)
    steps = _of_trainer(run.config, "max_steps")
    if done is None or (isinstance(steps, int) and 0 <= steps == _tested_at(run)):
        return None
    return None if done == asked and not _past(steps, run) else done


def _past(steps: Any, run: Run) -> bool:
    """Whether a run has trained more steps than it was to."""
    return isinstance(steps, int) and 0 <= steps < _tested_at(run)


def _tested_at(run: Run) -> int:
    """The step of the last test; 0 without one."""
    last = [run.last_step(tag) or 0 for tag in run.tags if tag.startswith("test/")]
    return max(last, default=0)


def _epochs_done(run: Run) -> int | None:
    """How many epochs a run had begun when it was tested at its end; `None` if it logged none.

    Not the last that was logged: a fit that went on there may have been interrupted.
    """
    tested = _tested_at(run)
    numbers = [run.number_at(tag, tested) for tag in _EPOCH] if tested else []
    numbers = [one for one in numbers if one is not None] or [run.last_number(t) for t in _EPOCH]
    done = int(max((number for number in numbers if number is not None), default=0))
    if done - 1 == epochs_of(run.config) and _AVERAGE in map(class_name, callbacks_in(run.config)):
        done -= 1  # a pass over the data for the batch norms, without training
    return done or None  # 0: `wiring test`, which trains none


def _limits_by_chance(config: Mapping[str, Any]) -> list[str]:
    """What may have ended a run at any time, in words."""
    named = [class_name(one) for one in callbacks_in(config) if class_name(one) in _STOPPERS]
    time = _of_trainer(config, "max_time")
    return named if time is None else [*named, f"max_time={time}"]


def _stoppers(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [flat(one) for one in callbacks_in(config) if class_name(one) in _STOPPERS]


def _of_trainer(config: Mapping[str, Any], key: str) -> Any:
    return (config.get("trainer") or {}).get(key)
