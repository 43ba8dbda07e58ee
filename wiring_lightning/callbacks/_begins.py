"""Where in a training a learner begins."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from wiring_lightning.callbacks._run_length import Begin
from wiring_lightning.callbacks.wiring_callback import WiringCallback


class Begins(WiringCallback):
    """A learner that asks where its fit begins: at 0, after a first fit, or after a checkpoint."""

    _loaded_begin: Begin | None = None  # where the checkpoint of this fit ends

    def fit_begin(self, trainer: Trainer) -> Begin:
        """How much of the training is over at the start of this fit, in `on_fit_start`."""
        # The loops of the trainer are restored from the checkpoint only later.
        return self._loaded_begin or Begin.of(trainer.global_step, trainer.fit_loop.state_dict())

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
    def forget(self) -> None:
        super().forget()
        self._loaded_begin = None
