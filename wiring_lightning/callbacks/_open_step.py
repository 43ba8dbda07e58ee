"""Whether a fit goes on inside of a step, of which no checkpoint holds the gradients."""

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from wiring_lightning.callbacks._run_length import accumulated_in


def warn_of_open_step(trainer: Trainer) -> None:
    """Warn if a checkpoint was saved between the accumulated batches of a step.

    A saver of Lightning's does so that waits for a time, for a validation inside of an epoch, or
    for an exception or a signal.

    Args:
        trainer: in `on_train_start`, when its loops are restored.
    """
    epoch = trainer.fit_loop.epoch_progress.current
    # The counts of batches stay until the next epoch begins.
    if trainer.ckpt_path is None or epoch.ready <= epoch.processed:
        return
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    in_one = accumulated_in(trainer, epoch.processed)
    # The last batch of an epoch ends a step in any case.
    if done >= trainer.num_training_batches or done % in_one == 0:
        return
    rank_zero_warn(
        f"The checkpoint {trainer.ckpt_path} was saved after batch {done} of an epoch, inside of a "
        f"step of {in_one} accumulated batches, and no checkpoint holds gradients: the next step "
        f"will lack {done % in_one} of its batches, so this training is not that of a run without "
        "a break; save after whole steps (every_n_train_steps of ModelCheckpoint)."
    )
