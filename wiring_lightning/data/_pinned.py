"""Pinned memory, from which workers' batches are copied while the host goes on."""

import torch


def has_pinned_memory(device: torch.device) -> bool:
    """Whether copies from pinned memory to this device can be asynchronous.

    Example:
        >>> has_pinned_memory(torch.device("cpu"))
        False
    """
    accelerator = torch.accelerator.current_accelerator()
    # Torch pins memory for the accelerator that it was built for, and never for Apple's.
    return accelerator is not None and accelerator.type == device.type != "mps"
