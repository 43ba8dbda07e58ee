"""Whether a network can be written at all: it has weights, and one answer for an image."""

from itertools import chain

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wiring_lightning.export.errors import ExportError
from wiring_lightning.nn.differences import largest_difference, largest_size


def check_weights_exist(network: nn.Module) -> None:
    """Refuse a network whose weights have no values yet.

    Raises:
        ExportError: if it has lazy layers that have never run, or is on `meta`.

    Example:
        >>> check_weights_exist(nn.Sequential(nn.LazyLinear(10)))
        Traceback (most recent call last):
        ...
        wiring_lightning.export.errors.ExportError: Sequential has no weights yet: ...
    """
    kind = type(network).__name__
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if is_lazy(value):
            raise ExportError(
                f"{kind} has no weights yet: the lazy layer of {name} gets them when it first "
                "runs, so train the network or load its weights."
            )
        if value.is_meta:
            raise ExportError(
                f"{kind} has no weights: {name} is on the device meta, which holds no values; "
                "build the network on the CPU and load its weights."
            )


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
