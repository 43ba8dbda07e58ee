"""The losses of examples that a training step returned."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor


def returned_losses(outputs: Any, module: LightningModule, must: bool) -> Tensor | None:
    """The losses that a training step returned; `None` if it may, and did, skip its batch."""
    skipped = not outputs or (isinstance(outputs, Mapping) and outputs.get("loss", 0) is None)
    if skipped and not must:
        return None
    losses = outputs.get("losses") if isinstance(outputs, Mapping) else None
    if not isinstance(losses, Tensor):
        raise MisconfigurationException(
            f"BudgetedSearch needs the loss of each example: let `training_step` of "
            f'{type(module).__name__} return {{"loss": losses.mean(), "losses": losses.detach()}}, '
            "with losses of shape [batch]."
        )
    return losses.detach()
