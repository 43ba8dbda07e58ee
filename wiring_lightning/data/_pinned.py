"""Copies to an accelerator that the host does not wait for."""

import torch
from torch import Tensor


def has_pinned_memory(device: torch.device) -> bool:
    """Whether copies from pinned memory to this device can be asynchronous.

    Example:
        >>> has_pinned_memory(torch.device("cpu"))
        False
    """
    accelerator = torch.accelerator.current_accelerator()
    # Torch pins memory for the accelerator that it was built for, and never for Apple's.
    return accelerator is not None and accelerator.type == device.type != "mps"


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return ``values`` on ``device``, without waiting for the copy if that is safe.

    Args:
        values: A tensor on the CPU.
        device: Where it is needed.

    Example:
        >>> send(torch.arange(3), torch.device("cpu"))
        tensor([0, 1, 2])
    """
    if not has_pinned_memory(device):
        return values.to(device)
    return values.contiguous().pin_memory().to(device, non_blocking=True)
