"""Layers with many zeros, and clocks by which a layout of their weights is the faster one."""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import nn

_READINGS = 32  # of the clock for each timing of `store_sparse`: 16 calls, before and after


def sparse_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data *= torch.rand_like(layer.weight) < 0.1
    return layer


def sparse_conv(inputs: int, outputs: int, kernel_size: Any, **options: Any) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size, **options)
    layer.weight.data *= torch.rand_like(layer.weight) < 0.3
    assert layer.weight.any()
    return layer


def clock(*lasts: float) -> Callable[[], float]:
    """A clock by which the calls of each timing last so long; the sparse layer comes first."""
    readings, now = count(), [0.0]

    def tell() -> float:
        reading = next(readings)
        if reading % 2:
            now[0] += lasts[reading // _READINGS]
        return now[0]

    return tell


def sparse_is_faster() -> Callable[[], float]:
    """A clock by which the first layer of each comparison, the sparse one, takes no time."""
    readings, now = count(), [0.0]

    def tell() -> float:
        now[0] += next(readings) // _READINGS % 2
        return now[0]

    return tell
