"""What runs should have in common to be compared, and what is said if they do not."""

from collections.abc import Mapping, Sequence
from typing import Any

from wiring_lightning.cli.code_version import version_in
from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.run_keys import differing, epochs_of, flat, in_words, setting
from wiring_lightning.cli.runs import CONNECTION, Run, RunError

# Keys of the data that change neither the images nor how many there are.
_NOT_DATA = ("data.batch_size", "data.seed", "data.drop_last")
_LENGTHS = ("trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches")


def refuse_different(found: str | None, mix: bool) -> None:
    """Refuse runs that differ in what they should have in common.

    Args:
        found: what they differ in, in words; `None` if they agree.
        mix: whether the user wants them together in spite of that.

    Raises:
        RunError: if they differ, unless told to mix.
    """
    if found and not mix:
        raise RunError(
            f"The runs differ in {found}: give runs that agree, or --mix to go on and be told so."
        )


def check_alike(found: str | None, mix: bool) -> None:
    """Do as `refuse_different`; a note says what runs that are mixed differ in."""
    refuse_different(found, mix)
    if found:
        note(f"the runs differ in {found}")


def different_data(runs: Sequence[Run]) -> str | None:
    """What the data of runs differ in, in words; `None` if they are the same."""
    return _words([data_facts(run.config) for run in runs])


def different_curves(runs: Sequence[Run]) -> str | None:
    """What runs differ in beside seeds, connections, learners and schedules; `None` if in nothing.

    A learner may have a schedule of its own, so only the length of the training is compared.
    """
    return _words([_without_connections(run.config) | _epochs(run.config) for run in runs])


def different_tables(runs: Sequence[Run], keys: Sequence[str]) -> str | None:
    """Whether runs differ in data, epochs or code version, in words; `None` if they agree.

    Args:
        runs: at least one.
        keys: of the rows; runs may differ in these.
    """
    short = [key.replace(".init_args.", ".") for key in keys]
    facts = []
    for run in runs:
        known = {k: v for k, v in data_facts(run.config).items() if k not in short}
        if not any(key in _LENGTHS for key in short):
            known |= _epochs(run.config)
        text = (run.folder / CONFIG).read_text(encoding="utf-8")
        facts.append({**known, "code version": version_in(text) or "not recorded"})
    return _words(facts)


def data_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config that say which images there are, and how many.

    Example:
        >>> arguments = {"val_size": 200, "batch_size": 64, "seed": 1}
        >>> data_facts({"data": {"class_path": "a.Digits", "init_args": arguments}})
        {'data': 'Digits', 'data.val_size': 200}
    """
    known = setting(config)
    return {k: v for k, v in known.items() if k.partition(".")[0] == "data" and k not in _NOT_DATA}


def _without_connections(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says about model and data, without the connections of the network."""
    return {
        key: value
        for key, value in setting(config).items()
        if key.partition(".")[0] in ("model", "data")
        and not any(part in CONNECTION for part in key.split("."))
    }


def _epochs(config: Mapping[str, Any]) -> dict[str, str]:
    """How long a config trains."""
    values, text = flat(config), str(epochs_of(config))
    _, steps, batches = _LENGTHS
    if (limit := values.get(steps)) not in (None, -1):
        text += f" or {limit} steps"
    if (limit := values.get(batches)) not in (None, 1.0):
        text += f" of {limit} batches"
    return {"epochs": text}


def _words(facts: Sequence[Mapping[str, Any]]) -> str | None:
    found = differing(facts)
    return in_words(found) if found else None
