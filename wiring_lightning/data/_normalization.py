"""The normalisation that a network was trained with, as its checkpoint holds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wiring_lightning.checkpoints import CheckpointError, map_checkpoint
from wiring_lightning.data.normalize import Normalizer

KEY = "normalization"  # in the state of a data module


def state_of(normalizer: Normalizer) -> dict[str, Tensor | None]:
    """What a checkpoint holds of a normalizer, see :func:`in_state`.

    Example:
        >>> state_of(Normalizer(torch.zeros(1)))
        {'mean': tensor([0.]), 'std': None}
    """
    std = normalizer.std
    return {"mean": normalizer.mean.cpu(), "std": None if std is None else std.cpu()}


def in_state(state: Mapping[str, Any]) -> Normalizer | None:
    """The normalizer in the state of a data module; None in a state that holds none."""
    saved = state.get(KEY)
    return None if saved is None else Normalizer(saved["mean"], saved["std"])


def state_in_file(path: str | Path) -> tuple[str, Mapping[str, Any]] | None:
    """The name and the state of the data module that a network was trained with.

    None if the file holds no such state, or is none that can be read here, such as a folder.
    """
    if not Path(path).is_file():
        return None
    try:
        content = map_checkpoint(path)
    except CheckpointError:
        return None
    for name, state in content.items():
        # The second is in older files, which hold the position in the training images only.
        if isinstance(state, Mapping) and (KEY in state or "global_batch_size" in state):
            return name, state
    return None


def is_same(one: Normalizer, other: Normalizer) -> bool:
    """Whether two normalizers map every image to the same numbers."""
    left, right = state_of(one), state_of(other)
    return all(_is_equal(left[name], right[name]) for name in left)


def fits(normalizer: Normalizer, shape: tuple[int, ...]) -> bool:
    """Whether images of a shape can be normalised, and keep it.

    Example:
        >>> fits(Normalizer(torch.zeros(3, 1, 1)), (3, 8, 8)), fits(
        ...     Normalizer(torch.zeros(3, 9, 9)), (3, 8, 8))
        (True, False)
    """
    try:
        return torch.broadcast_shapes(normalizer.mean.shape, shape) == torch.Size(shape)
    except RuntimeError:
        return False


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
