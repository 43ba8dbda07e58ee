"""What a fit that goes on from a checkpoint knows about it, beside what Lightning restores."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from wiring_lightning.callbacks._open_step import warn_of_open_step
from wiring_lightning.callbacks.wiring_callback import find_learners


class Resumed(Callback):
    """Lets a fit that goes on save no step a second time.

    `ModelCheckpoint` remembers the step that it saved last, and saves it once. Its state in a
    checkpoint has no such step. So after a break it would save again, at the next batch, and with
    accumulated batches that is inside of a step: what is saved there lacks gradients.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All is restored now, and nothing is saved yet."""
        for saver in trainer.checkpoint_callbacks:
            if (
                isinstance(saver, ModelCheckpoint)
                and saver._every_n_train_steps
                and trainer.global_step % saver._every_n_train_steps == 0
            ):
                saver._last_global_step_saved = trainer.global_step
        if not find_learners(trainer):  # which say it themselves
            warn_of_open_step(trainer)
