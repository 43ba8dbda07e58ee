"""What a cost gave, as a tensor of finite numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wiring_lightning.wiring import Wiring


def name_of_cost(cost: Any) -> str:
    """How a sentence calls a cost: by its name, or by that of its class.

    Example:
        >>> from wiring_lightning.costs import Latency, parameters
        >>> name_of_cost("latency"), name_of_cost(parameters), name_of_cost(Latency())
        ('latency', 'parameters', 'Latency')
    """
    if isinstance(cost, str):
        return cost
    return str(getattr(cost, "__name__", type(cost).__name__))


def as_prices(
    given: Any, wiring: Wiring, name: str, error: Callable[[str], Exception] = ValueError
) -> Tensor:
    """What a cost gave for a wiring as a tensor on the CPU, one finite number per architecture.

    Args:
        given: a tensor, a NumPy array, a list or a number.
        wiring: one architecture, or a batch of them.
        name: of the cost.
        error: what to raise, or what makes it from a message.

    Returns:
        A scalar, or `[...]` like the batch.

    Raises:
        ValueError: or `error`, if it is of another kind or shape, or not finite.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "out"], [0], [1], [True])
        >>> as_prices(5.0, wiring, "size")
        tensor(5.)
        >>> as_prices(float("nan"), wiring, "size")
        Traceback (most recent call last):
        ValueError: the cost size gave nan; a cost must be a finite number for every architecture.
    """
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        given = np.array(given, dtype=float)  # torch does not read every layout
    try:
        prices = torch.as_tensor(given, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):  # torch raises each of them for some kinds
        raise error(
            f"the cost {name} gave a {type(given).__name__}; it must give a number for an "
            "architecture, or a tensor of them for a batch."
        ) from None
    if prices.is_complex():
        raise error(f"the cost {name} gave complex numbers; a cost must be real.")
    shape = wiring.active.shape[:-1]
    if prices.shape != shape:
        raise error(
            f"the cost {name} gave the shape {tuple(prices.shape)} for {shape.numel()} "
            f"architectures, not {tuple(shape)}; it must give one number for each."
        )
    wrong = prices[~prices.isfinite()]
    if len(wrong):
        raise error(
            f"the cost {name} gave {wrong[0].item()}; a cost must be a finite number for every "
            "architecture."
        )
    return prices
