"""Which of the configs in the folder of a run what was trained there is of.

A fit may go on in the folder, and saves a config of its own there before it has done anything. So
every checkpoint notes the config of the fit that wrote it.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning.checkpoints import CheckpointError, read_weights
from wiring_lightning.cli.config_parts import configs_in, is_of_fit
from wiring_lightning.cli.run_checkpoints import checkpoints_of
from wiring_lightning.cli.yaml_text import read_yaml

_KEY = "wiring_config"


def note_config(checkpoint: dict[str, Any], name: str) -> None:
    """Write into a checkpoint the name of the config of its fit, such as `config_1.yaml`."""
    checkpoint[_KEY] = name


def trained_config(folder: Path, checkpoint: Path | None = None) -> Path | None:
    """The config of the fit that wrote a checkpoint, or of the last fit that wrote any.

    A fit that failed before its first checkpoint has trained nothing of what is there. Checkpoints
    of earlier versions note no config, and neither do those of a trainer in Python.

    Args:
        folder: that of the configs.
        checkpoint: by default those below the folder.

    Returns:
        The last config of a fit if no checkpoint tells; without any, the last config of a command.
        `None` if there is none.
    """
    paths = configs_in(folder)
    if len(paths) < 2:
        return paths[0] if paths else None
    fits = [path for path in paths if _may_be_of_fit(path)]
    if len(fits) < 2:
        return (fits or paths)[-1]
    saved = checkpoints_of(folder) if checkpoint is None else [checkpoint]
    noted: set[Path] = set()
    for path in saved:
        noted |= {fit for fit in fits if fit.name == _noted_in(path)}
        if fits[-1] in noted:
            break  # none is later
    return max(noted, key=fits.index, default=fits[-1])


def noted_config(folder: Path, checkpoint: Path) -> Path | None:
    """The config of a fit that a checkpoint notes; `None` if there is no other to choose from.

    Args:
        folder: that of the configs.
        checkpoint: one that notes none, or one that is not there, gives `None`, too.
    """
    paths = configs_in(folder)
    noted = _noted_in(checkpoint) if len(paths) > 1 else None
    return next((path for path in paths if path.name == noted and _may_be_of_fit(path)), None)


def say_if_config_is_gone(folder: Path, checkpoint: Path, content: Mapping[str, Any]) -> None:
    """Warn of a checkpoint whose task is built from the config of another fit.

    Args:
        folder: that of the configs.
        checkpoint: the file.
        content: what it holds.
    """
    noted = content.get(_KEY)
    if isinstance(noted, str) and folder / noted not in configs_in(folder):
        warnings.warn(
            f"The checkpoint {checkpoint} is of the config {noted}, which is not in {folder}: its "
            "task may have other arguments than it was trained with.",
            stacklevel=2,
        )


def _noted_in(path: Path) -> Any:
    try:
        return read_weights(path).get(_KEY)
    except CheckpointError:  # whoever uses it says what is wrong with it
        return None


def _may_be_of_fit(path: Path) -> bool:
    """Whether a config is of a fit, or damaged: whoever reads it says so."""
    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        return True
    return not isinstance(config, Mapping) or is_of_fit(config)
