"""Start a fit with the weights of another fit."""

from typing import Any
from weakref import WeakSet

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from wiring_lightning.checkpoints import load_weights


class WarmStart(Callback):
    """Load weights before a fit, which then begins at epoch 0 with its own optimizer.

    The config that `wiring inspect --found` writes uses it, so that training continues with the
    weights of the search. A resumed run (`--ckpt_path`) uses the weights of its own checkpoint.

    Args:
        weights: checkpoint of a network of the same structure, or its `state_dict` in a file, whose
            names may have another prefix. Without it the fit starts from scratch.

    Raises:
        MisconfigurationException: if `configure_model` or `setup` builds the network, too late.
        CheckpointError: in `setup`, if the file cannot be read, or belongs to another network.

    Example:
        >>> start = WarmStart("found/network.ckpt")
        >>> trainer = Trainer(callbacks=[start], logger=False, enable_checkpointing=False,
        ...                   accelerator="cpu")
    """

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights
        self._networks = WeakSet[LightningModule]()  # those of earlier fits

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_networks": WeakSet()}  # what does not hold them cannot be copied

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.weights is None:
            return
        known = pl_module in self._networks or not self._networks
        self._networks.add(pl_module)
        if trainer.global_step > 0 and known:
            return  # this trainer's fit goes on with the weights that it has
        later = "configure_model" if is_overridden("configure_model", pl_module) else None
        if is_overridden("setup", pl_module) and not [*pl_module.parameters()]:
            later = "setup"
        if later is not None:
            raise MisconfigurationException(
                f"WarmStart: {type(pl_module).__name__} builds its network in {later}, after "
                "weights would be loaded; build it in __init__, or load them there."
            )
        load_weights(pl_module, self.weights)
