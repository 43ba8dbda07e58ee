"""A folder for every run that no other run has, and the config that is saved there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from wiring_lightning.cli.code_version import header
from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.parser import WiringParser
from wiring_lightning.cli.trained_config import note_config
from wiring_lightning.files import (
    check_writable,
    claim_version,
    free_path,
    is_remote,
    make_empty,
    write_file,
    write_new_file,
)

_RUNS = "lightning_logs"  # as Lightning calls it


@rank_zero_only
def claim_folder(trainer: WiringTrainer, begins: bool) -> None:
    """Give a run its folder `version_N`, which no run that starts at the same time can get.

    Lightning's loggers choose the next number by looking, so two runs may choose the same. Without
    a logger that has a folder for every run, Lightning writes into the folder that was started
    from; here the run gets one below `default_root_dir`.

    Args:
        trainer: before it runs; `claimed` gets the folders that are made here.
        begins: whether a new fit begins, which does not go on in a folder that has files.

    Raises:
        MisconfigurationException: if a new fit is told to write where files are.
    """
    versions: dict[Path, int] = {}  # two loggers of a run share a number, as in Lightning

    def version_in(root: Path) -> int:
        place = root.resolve()
        if place not in versions:
            versions[place] = _claim(trainer, str(root))
        return versions[place]

    for logger in trainer.loggers:
        if not _has_folders(logger) or is_remote(str(logger.root_dir)):
            continue
        if logger._version is None:
            logger._version = version_in(Path(_expanded(logger.root_dir)))
        else:
            folder = Path(_expanded(logger.log_dir))
            _check_named_folder(folder, begins)
            check_writable(folder / CONFIG)
            with suppress(FileExistsError):  # then it is not this run's alone
                folder.mkdir(parents=True)
                trainer.claimed = (*trainer.claimed, folder)
    needs_one = trainer.folder is None and not any(map(_has_folders, trainer.loggers[:1]))
    if needs_one and not is_remote(trainer.default_root_dir):
        runs = _runs_of(trainer)
        use_folder(trainer, runs / f"version_{version_in(runs)}")


def go_on_in(trainer: WiringTrainer, folder: Path) -> None:
    """Let a run write into the folder that `claim_folder` gave it when it began.

    A second logger that writes elsewhere gets a folder of its own: there, the number may be that of
    another run.
    """
    for logger in filter(_has_folders, trainer.loggers):
        runs = Path(_expanded(logger.root_dir)).resolve()
        if logger._version is None and runs == folder.resolve().parent:
            logger._version = folder.name
    if not any(map(_has_folders, trainer.loggers[:1])):
        use_folder(trainer, folder)


def use_folder(trainer: WiringTrainer, folder: Path) -> None:
    """Let a run write into a folder, also its checkpoints.

    Lightning would put these where the logger of a server has its own files, apart from the config.
    """
    trainer.folder = folder
    read_from(trainer, folder)


def read_from(trainer: WiringTrainer, folder: Path) -> None:
    """Let the callbacks without a folder of their own keep their checkpoints in that of a run."""
    for saver in savers_without_folder(trainer):
        saver.dirpath = str(folder / "checkpoints")


def folder_of_runs(trainer: WiringTrainer) -> Path | None:
    """Where the folders `version_N` of this run and of others like it are.

    Returns:
        `None` if they have no numbers: if the logger has a fixed version, or a server keeps files.
    """
    first: Any = next(iter(trainer.loggers), None)
    if not _has_folders(first):
        root, runs = str(trainer.default_root_dir), _runs_of(trainer)
    elif first._version is None:
        root, runs = str(first.root_dir), Path(_expanded(first.root_dir))
    else:
        return None
    return None if is_remote(root) else runs


@contextmanager
def versions_not_taken(trainer: WiringTrainer) -> Iterator[None]:
    """Let someone ask loggers for their folders, which gives them a number; then take it back."""
    free = [one for one in filter(_has_folders, trainer.loggers) if one._version is None]
    yield
    for logger in free:
        logger._version = None


def release_folder(trainer: WiringTrainer) -> None:
    """Remove what `claim_folder` made if nothing was written into it."""
    for folder in trainer.claimed:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


@rank_zero_only
def check_savers(trainer: WiringTrainer) -> None:
    """Find out before the work whether checkpoints can be written where the config says.

    Raises:
        OSError: if a folder cannot be written.
    """
    for saver in trainer.checkpoint_callbacks:
        folder = getattr(saver, "dirpath", None)
        if folder is not None and not is_remote(folder):
            check_writable(Path(folder) / "last.ckpt")


def _check_named_folder(folder: Path, begins: bool) -> None:
    """Keep what is in a folder that the config names."""
    if begins and folder.is_dir() and any(folder.iterdir()):
        raise MisconfigurationException(
            f"The folder {folder} of the logger is not empty: give the logger another name or "
            "version, or continue the run there with --ckpt_path."
        )
    metrics = folder / "metrics.csv"
    if metrics.is_file():  # a CSVLogger deletes it
        metrics.rename(free_path(metrics))


def _claim(trainer: WiringTrainer, root: str) -> int:
    check_writable(Path(root) / CONFIG)  # which says what to do if no folder can be made there
    version = claim_version(root)
    trainer.claimed = (*trainer.claimed, Path(root) / f"version_{version}")
    return version


def begins(subcommand: str, ckpt_path: str | None) -> bool:
    """Whether a command begins a new fit."""
    return subcommand == "fit" and ckpt_path is None


class SaveConfig(SaveConfigCallback):
    """Save the config of a run in its folder, and never over another file.

    If there is one already, a run that goes on in its folder (`--ckpt_path`), or measures there,
    saves its own with a number behind the name, unless it is the same.
    """

    name = CONFIG  # of the file that was written

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the config; all ranks take part."""
        if self.already_saved:
            return
        self.already_saved = True
        name = CONFIG
        path = Path(trainer.log_dir or trainer.default_root_dir) / CONFIG
        taken = trainer.strategy.broadcast(trainer.is_global_zero and not make_empty(path))
        if taken and begins(stage, self.config.get("ckpt_path")):
            assert isinstance(trainer, WiringTrainer)
            trainer.claimed = ()  # whoever made the folder, it is now that of the other run
            raise MisconfigurationException(
                f"Another run has just begun in {path.parent}: give the logger another name or "
                "version."
            )
        if trainer.is_global_zero:
            assert isinstance(self.parser, WiringParser)
            text = (header() + self.parser.text_of(self.config)).encode()
            if not taken:
                write_file(path, text)
            elif path.read_bytes() != text:
                written = write_new_file(path, text)
                name = written.name
                if isinstance(trainer, WiringTrainer):
                    trainer.went_on = written
        self.name = name

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note which config the checkpoint is of."""
        note_config(checkpoint, self.name)


def _expanded(folder: Any) -> str:
    return os.path.expandvars(Path(str(folder)).expanduser())


def _has_folders(logger: Any) -> bool:
    """Whether a logger has a folder for every run; others have one for all of them."""
    return isinstance(logger, TensorBoardLogger | CSVLogger)


def _runs_of(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / _RUNS


def savers_without_folder(trainer: Trainer) -> list[ModelCheckpoint]:
    """The callbacks that save checkpoints in the folder of the run."""
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, ModelCheckpoint)]
    return [saver for saver in savers if saver.dirpath is None]
