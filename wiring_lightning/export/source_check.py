"""Whether a network can be written at all: it has one answer for an image."""

from torch import Tensor

from wiring_lightning.export.errors import ExportError
from wiring_lightning.nn.differences import largest_difference, largest_size


def check_answers(first: Tensor, again: Tensor, name: str, allowed: float) -> None:
    """Refuse a network that gives no logits of classes, no numbers, or others each time.

    Args:
        first: its logits.
        again: those of the same images, a second time.
        name: of the network.
        allowed: how far they may be apart, as a share of the largest logit.

    Raises:
        ExportError: if they are no logits of classes, no numbers, or further apart.

    Example:
        >>> import torch
        >>> check_answers(torch.zeros(6), torch.zeros(6), "Regressor", 0.1)
        Traceback (most recent call last):
        ...
        wiring_lightning.export.errors.ExportError: Regressor gives an answer of shape [6]: ...
    """
    if first.dim() < 2 or first.numel() == 0:
        raise ExportError(
            f"{name} gives an answer of shape {list(first.shape)}: logits must be [batch, classes] "
            "with at least one class, and may have more dimensions that are not 0; one number for "
            "each image is [batch, 1]."
        )
    if first.isnan().any():
        raise ExportError(
            f"{name} gives logits that are no numbers (nan): check its weights and the images."
        )
    if not largest_difference(first, again) <= allowed * largest_size(first):
        raise ExportError(
            f"{name} gives other logits for the same images each time, so no file can be compared "
            "with it: in evaluation mode it must draw no random numbers; give functional.dropout "
            "training=self.training."
        )
