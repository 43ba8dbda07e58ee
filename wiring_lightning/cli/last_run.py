"""Which earlier run `--ckpt_path last` means: the newest of those with the same training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.run_folder import folder_of_runs, savers_without_folder
from wiring_lightning.cli.run_keys import differing, in_words, training
from wiring_lightning.cli.trained_config import trained_config
from wiring_lightning.files import is_remote, newest_first

_LAST = "last*.ckpt"


def find_last_run(
    trainer: WiringTrainer, config: Mapping[str, Any]
) -> tuple[Path | None, str | None]:
    """The run with a number that a command goes on with, or measures.

    All ranks find the same: until they have met, rank 0 writes no checkpoint.

    Args:
        trainer: before it runs.
        config: of the command, as plain values.

    Returns:
        The folder of the run with the same training that saved `last.ckpt` most recently, and what
        is to be said of the newest one of another training, if there is one before it. `None`
        without a run, as if runs have no numbers, or checkpoints are in a folder that the config
        names; then a link that leads nowhere is to be told.
    """
    runs = folder_of_runs(trainer)
    if runs is None or not savers_without_folder(trainer):
        folders = [getattr(saver, "dirpath", None) for saver in trainer.checkpoint_callbacks]
        return None, _dead_link(path for one in filter(None, folders) for path in _last_in(one))
    others = None
    found = list(runs.glob(f"version_*/checkpoints/{_LAST}"))
    for path in newest_first(found):
        apart = _apart(path, config)
        if apart is None:
            return path.parents[1], others
        others = others or f"{path} is of {apart}"
    return None, others or _dead_link(found)


def _last_in(folder: str) -> list[Path]:
    return [] if is_remote(folder) else list(Path(folder).glob(_LAST))


def _dead_link(paths: Iterable[Path]) -> str | None:
    """What is to be said of a link to nothing or to itself, if one of the paths is one."""
    dead = sorted(path for path in paths if path.is_symlink() and not path.is_file())
    return f"{dead[-1]} is a link that leads nowhere" if dead else None


def _apart(checkpoint: Path, config: Mapping[str, Any]) -> str | None:
    """How a checkpoint was trained in another way than a config says; `None` if it was not."""
    folder = checkpoint.parents[1]
    try:
        # It is one folder deeper if the logger has a `sub_dir`.
        paths = folder.rglob(CONFIG)
        first = min(paths, key=lambda path: len(path.parts), default=folder / CONFIG)
        path = trained_config(first.parent, checkpoint) or first
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = differing([training(saved), training(config)])
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return f"a run without a {CONFIG}"
    return f"a run with another config, {in_words(found, 2)}" if found else None
