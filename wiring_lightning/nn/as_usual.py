"""Work on networks that must not depend on the context in which it is asked for."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from wiring_lightning.functional.autocast import without_autocast


@contextmanager
def as_usual(*networks: nn.Module) -> Iterator[None]:
    """Inside, neither inference mode nor autocast is on; networks that are made there can learn.

    Args:
        networks: autocast is off on the devices of their weights, and on the CPU.

    Example:
        >>> with torch.inference_mode(), as_usual():
        ...     layer = nn.Linear(2, 2)
        >>> layer.weight.is_inference()
        False
    """
    learning = torch.is_grad_enabled()  # inference mode changes it, too
    weights = [weight for network in networks for weight in network.parameters()]
    places = {weight.device.type: weight.device for weight in weights}
    with ExitStack() as contexts:
        contexts.enter_context(torch.inference_mode(False))
        contexts.enter_context(torch.set_grad_enabled(learning))
        for device in (places | {"cpu": torch.device("cpu")}).values():
            contexts.enter_context(without_autocast(device))
        yield
