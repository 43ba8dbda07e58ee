"""An example of the user's, copied for a network that may write into it."""

from collections.abc import MutableMapping
from copy import copy
from typing import Any

from torch import Tensor


def with_own_tensors(example: Any) -> Any:
    """An example with copies of its tensors: a network may normalise its input in place.

    Args:
        example: a tensor, or tuples, lists and mappings of tensors and other values.

    Example:
        >>> import torch
        >>> images = torch.ones(1, 3, 2, 2)
        >>> _ = with_own_tensors((images, "a note"))[0].neg_()
        >>> float(images.min())
        1.0
    """
    if isinstance(example, Tensor):
        return example.detach().clone()
    if isinstance(example, MutableMapping):
        own = copy(example)
        for key, value in example.items():
            own[key] = with_own_tensors(value)
        return own
    if isinstance(example, tuple | list):
        parts = [with_own_tensors(value) for value in example]
        is_named = hasattr(example, "_fields")
        return type(example)(*parts) if is_named else type(example)(parts)
    return example
