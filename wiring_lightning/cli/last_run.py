"""Which earlier run `--ckpt_path last` means: the newest of those with the same training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.run_folder import folder_of_runs, savers_without_folder
from wiring_lightning.cli.run_keys import differing, in_words, training
from wiring_lightning.files import newest_first


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
        is to be said of the newest one of another training, if there is one before it. `None` and
        `None` if runs have no numbers, or checkpoints are in a folder that the config names.
    """
    runs = folder_of_runs(trainer)
    if runs is None or not savers_without_folder(trainer):
        return None, None
    others = None
    for path in newest_first(runs.glob("version_*/checkpoints/last*.ckpt")):
        apart = _apart(path.parents[1], config)
        if apart is None:
            return path.parents[1], others
        others = others or f"{path} is of {apart}"
    return None, others


def _apart(folder: Path, config: Mapping[str, Any]) -> str | None:
    """How a run was trained in another way than a config says; `None` if it was not."""
    try:
        # It is one folder deeper if the logger has a `sub_dir`.
        paths = folder.rglob(CONFIG)
        path = min(paths, key=lambda path: len(path.parts), default=folder / CONFIG)
        saved = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = differing([training(saved), training(config)])
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return f"a run without a {CONFIG}"
    return f"a run with another config, {in_words(found, 2)}" if found else None
