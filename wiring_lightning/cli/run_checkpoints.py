"""Where the checkpoints of a run are."""

from collections.abc import Mapping
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning.cli.config_parts import CONFIG, configs_in, loggers_in
from wiring_lightning.cli.yaml_text import read_yaml
from wiring_lightning.files import newest_first

_FOLDER = "checkpoints"  # as Lightning calls it
_FILES = "*.ckpt"


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run from the newest to the oldest.

    They are below its folder, and their own folder may be a link to another disk.

    Args:
        folder: the one that holds the config. If the logger has a `sub_dir`, it is that one, and
            the checkpoints are beside it.
    """
    found = {*folder.rglob(_FILES), *(folder / _FOLDER).rglob(_FILES)}  # no link is followed but it
    above = None if found else _above_sub_dir(folder)
    return newest_first(found if above is None else (above / _FOLDER).rglob(_FILES))


def configured_near(checkpoint: Path) -> list[Path]:
    """The folders with a config that a checkpoint may be of, the nearest first."""
    places = [*checkpoint.resolve().parents[:2], *checkpoint.absolute().parents[:2]]
    near = [place for place in places if (place / CONFIG).is_file()]
    if near or checkpoint.absolute().parent.name != _FOLDER:
        return near
    run = checkpoint.absolute().parents[1]
    below = sorted({path.parent for path in run.rglob(CONFIG)})
    return [place for place in below if _above_sub_dir(place) == run]


def _above_sub_dir(folder: Path) -> Path | None:
    """The folder of a run above the `sub_dir` of its logger, which is a given one."""
    for path in configs_in(folder):
        try:
            config = read_yaml(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError):  # whoever reads it says so
            continue
        first = next(iter(loggers_in(config)), None) if isinstance(config, Mapping) else None
        arguments = first.get("init_args") if isinstance(first, Mapping) else None
        sub_dir = arguments.get("sub_dir") if isinstance(arguments, Mapping) else None
        parts = Path(sub_dir).parts if isinstance(sub_dir, str) else ()
        whole = folder.absolute()
        if parts and whole.parts[-len(parts) :] == parts:
            return whole.parents[len(parts) - 1]
    return None
