"""A SLURM job that is queued again: which checkpoint its run left, and in which folder it goes on.

At SLURM's signal Lightning writes `hpc_ckpt_N.ckpt` into `default_root_dir`, where all runs write
theirs. So every checkpoint notes whose it is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from wiring_lightning.checkpoints import CheckpointError, load_checkpoint
from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.trained_config import trained_config
from wiring_lightning.files import is_remote

_KEY = "slurm_run"
# What a config gets while the command runs.
_CHOSEN = ("ckpt_path", "float32_matmul_precision")


class JobNote(Callback):
    """Writes into every checkpoint which job made it, and the folder of its run."""

    def __init__(self) -> None:
        self.folder: str | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep the folder; all ranks take part."""
        if SLURMEnvironment.job_id() is not None:
            self.folder = trainer.log_dir

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the note; without SLURM a checkpoint has none."""
        if self.folder is not None:
            folder = str(Path(self.folder).resolve())
            checkpoint[_KEY] = {"job": SLURMEnvironment.job_id(), "folder": folder}


def find_requeued(
    root: str, read_config: Callable[[], Mapping[str, Any]], weights_only: bool = True
) -> tuple[str, Path] | None:
    """The checkpoint that this job left before it was queued again, and the folder of its run.

    It is that of this run if the job has the same number, and if the config that its fit has saved
    in its folder equals this one. Other checkpoints of jobs are named and left alone.

    Args:
        root: `default_root_dir`.
        read_config: gives the config of `fit` as plain values; most runs do not need it.
        weights_only: as in `torch.load`.

    Returns:
        `None` if training starts from scratch.
    """
    job = SLURMEnvironment.job_id()
    if job is None or is_remote(root):
        return None
    found = sorted(Path(root).glob("hpc_ckpt_*.ckpt"), key=_number, reverse=True)
    for path in found:
        written = _note_in(path, weights_only)
        if written.get("job") != job:
            continue
        if _is_of(path, folder := Path(written["folder"]), read_config()):
            rank_zero_only(note)(f"the job was queued again, so training goes on from {path}")
            return str(path), folder
    if found:
        rank_zero_only(note)(
            f"{found[0]} is not of this run and job, so training starts from scratch; "
            "--ckpt_path hpc goes on from it"
        )
    return None


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("hpc_ckpt_")
    return int(digits) if digits.isdecimal() else -1


def _note_in(path: Path, weights_only: bool) -> Mapping[str, Any]:
    try:
        written: Mapping[str, Any] = load_checkpoint(path, weights_only).get(_KEY, {})
    except CheckpointError as error:
        rank_zero_only(note)(str(error))  # it may be that of anyone
        return {}
    return written


def _is_of(checkpoint: Path, folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a fit with a config has written a checkpoint; its folder holds the saved one."""
    try:
        file = trained_config(folder, checkpoint) or folder / CONFIG
        saved = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _without_chosen(saved) == _without_chosen(config)
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return False  # it is no config of a run


def _without_chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _CHOSEN}
