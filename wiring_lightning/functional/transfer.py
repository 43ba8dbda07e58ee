"""Copies of small tensors from the CPU to a device, without waiting for it."""

import torch
from torch import Tensor

# Their asynchronous copies can read memory that was freed meanwhile, or there are none.
_BLOCKING = ("cpu", "mps")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; the host goes on before the copy has ended.

    Example:
        >>> send(torch.tensor([1, 2]), torch.device("cpu"))
        tensor([1, 2])
    """
    return tensor.to(device, non_blocking=device.type not in _BLOCKING)
