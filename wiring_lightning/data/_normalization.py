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


def for_shape(normalizer: Normalizer, shape: tuple[int, int, int]) -> Normalizer | None:
    """The normalizer for images of a shape, or None if it does not fit them.

    Of a larger mean image, this is the centre, as evaluation shows the centre of images: that of
    ``MiniImageNet`` is larger than what its network sees.

    Example:
        >>> mean = torch.arange(16.0).view(1, 4, 4)
        >>> for_shape(Normalizer(mean), (1, 2, 2)).mean.tolist()
        [[[5.0, 6.0], [9.0, 10.0]]]
        >>> for_shape(Normalizer(mean), (1, 5, 5)) is None
        True
    """
    mean, (_, height, width) = normalizer.mean, shape
    if mean.dim() == 3 and mean.shape[1] >= height and mean.shape[2] >= width:
        top, left = (mean.shape[1] - height) // 2, (mean.shape[2] - width) // 2
        mean = mean[:, top : top + height, left : left + width]
    try:
        if torch.broadcast_shapes(mean.shape, shape) != torch.Size(shape):
            return None
    except RuntimeError:
        return None
    return Normalizer(mean, normalizer.std)


def _is_equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
