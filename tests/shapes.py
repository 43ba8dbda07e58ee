"""Networks that are built to be counted, not computed with."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn


def _as_it_is(tensor: Tensor, *_: object, **__: object) -> Tensor:
    return tensor


@contextmanager
def without_draws() -> Iterator[None]:
    """What is built has whatever was in its memory: drawing weights takes half of the time."""
    names = [name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")]
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(nn.init, name, _as_it_is)
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """What is built has shapes, and no memory either."""
    with torch.device("meta"), without_draws():
        yield
