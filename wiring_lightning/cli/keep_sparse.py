"""The network that a fit leaves is saved if no checkpoint of the run is as sparse."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from typing_extensions import override

from wiring_lightning.callbacks._only_denser import leaves_only_denser
from wiring_lightning.files import free_path, is_remote

_NAME = "sparse.ckpt"


class KeepSparse(Checkpoint):
    """Saves a checkpoint at the end of a fit that would otherwise leave denser ones only.

    So it is if a `ModelCheckpoint` has kept what was best before weights were removed. It is saved
    beside its files, and not if the run saves none.
    """

    def __init__(self) -> None:
        self.last_model_path = ""

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the network if it is needed; all ranks take part."""
        savers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
        folders = [str(saver.dirpath) for saver in savers if saver.dirpath is not None]
        if not folders or trainer.fast_dev_run or trainer.interrupted:
            return
        needed = trainer.is_global_zero and leaves_only_denser(trainer, pl_module)
        if trainer.strategy.broadcast(needed):
            path = f"{folders[0]}/{_NAME}"
            if not is_remote(path):
                path = trainer.strategy.broadcast(str(free_path(Path(path))))
            trainer.save_checkpoint(path)
            self.last_model_path = path
