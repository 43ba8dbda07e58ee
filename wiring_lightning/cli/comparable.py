"""What runs should have in common to be compared, and what is said if they do not."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wiring_lightning.cli.code_version import version_in
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.run_keys import differing, in_words, setting
from wiring_lightning.cli.run_length import LENGTHS, lengths, share_of
from wiring_lightning.cli.runs import CONNECTION, Run, RunError

# Keys of the data that change neither the images nor how many there are.
_NOT_DATA = ("data.batch_size", "data.seed", "data.drop_last")
_MEASURED = ("val", "test")  # what scores are of, by their names


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


def different_data(runs: Sequence[Run], splits: Sequence[str] = ("test",)) -> str | None:
    """What the data of runs differ in, in words; `None` if they are the same.

    Args:
        runs: at least one.
        splits: those whose accuracy counts, of `val` and `test`: as many of their images count.
    """
    return _words([data_facts(run.config) | _measured(run.config, splits) for run in runs])


def different_curves(runs: Sequence[Run]) -> str | None:
    """What runs differ in beside seeds, connections, learners and schedules; `None` if in nothing.

    A learner may have a schedule of its own, so only the length of the training is compared.
    """
    return _words(
        [
            _without_connections(run.config) | _measured(run.config, ["test"]) | length
            for run, length in zip(runs, lengths(runs), strict=True)
        ]
    )


def different_tables(runs: Sequence[Run], keys: Sequence[str], score: str) -> str | None:
    """Whether runs differ in data, epochs or code version, in words; `None` if they agree.

    Args:
        runs: at least one.
        keys: of the rows; runs may differ in these.
        score: the number that counts, such as `test/acc`.
    """
    short = [key.replace(".init_args.", ".") for key in keys]
    split = score.partition("/")[0]
    facts = []
    for run, length in zip(runs, lengths(runs), strict=True):
        known = data_facts(run.config)
        known |= _measured(run.config, [split] if split in _MEASURED else [])
        known = {key: value for key, value in known.items() if key not in short}
        if not any(key in LENGTHS for key in short):
            known |= length
        text = run.file.read_text(encoding="utf-8")
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


def _measured(config: Mapping[str, Any], splits: Iterable[str]) -> dict[str, str]:
    """On how many batches of some splits a config measures; nothing for all of them."""
    trainer = config.get("trainer") or {}
    shares = {f"limit_{split}_batches": share_of(trainer.get(f"limit_{split}_batches"))
              for split in splits}  # fmt: skip
    return {f"trainer.{key}": share for key, share in shares.items()}


def _words(facts: Sequence[Mapping[str, Any]]) -> str | None:
    found = differing(facts)
    return in_words(found) if found else None
