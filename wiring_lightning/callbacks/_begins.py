"""Where in a training a learner begins, and whether its epochs stay as long as they were."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

from wiring_lightning.callbacks._run_length import Begin, has_other_batches
from wiring_lightning.callbacks.wiring_callback import WiringCallback


class Begins(WiringCallback):
    """A learner that asks where its fit begins: at 0, after a first fit, or after a checkpoint."""

    _loaded_begin: Begin | None = None  # where the checkpoint of this fit ends
    # The batches of an epoch, if they decide a number of steps, and what gives that number instead.
    _counted: tuple[float, str] | None = None

    def fit_begin(self, trainer: Trainer) -> Begin:
        """How much of the training is over at the start of this fit, in `on_fit_start`."""
        # The loops of the trainer are restored from the checkpoint only later.
        return self._loaded_begin or Begin.of(trainer.global_step, trainer.fit_loop.state_dict())

    def count_on(self, batches: float, instead: str) -> None:
        """Warn if an epoch has another number of batches later; `instead` needs none."""
        self._counted = batches, instead

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        loops = checkpoint.get("loops")
        # The learning rate finder loads a checkpoint of its own later.
        if loops and self._loaded_begin is None:
            self._loaded_begin = Begin.of(checkpoint["global_step"], loops["fit_loop"])

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        if self._counted is None or not has_other_batches(trainer, self._counted[0]):
            return
        (before, instead), self._counted = self._counted, None  # once is enough
        rank_zero_warn(
            f"{type(self).__name__}: an epoch has {trainer.num_training_batches} batches now, not "
            f"{before} as when the fit started, so this callback counts on another length of the "
            f"training: give {instead}."
        )

    @override
    def forget(self) -> None:
        super().forget()
        self._loaded_begin = self._counted = None
