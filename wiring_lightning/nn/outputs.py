"""The logits in what a network gives: a tensor, a tuple, a mapping or an object."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from torch import Tensor

_LOGITS = ("logits", "out")  # of transformers and GoogLeNet, and of torchvision's segmentation


class Outputs(NamedTuple):
    """What a network says about a batch.

    Args:
        logits: its answer.
        auxiliary: answers of earlier layers, which only help training.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def find_outputs(answer: Any, network: str) -> Outputs:
    """The logits of a network, and its auxiliary ones.

    The logits are the answer itself; or what it calls `logits` or `out`; or the first part of a
    tuple. Parts whose names begin with `aux` are auxiliary, as those of GoogLeNet, Inception and
    torchvision's segmentation.

    Args:
        answer: what the network's `forward` gives.
        network: name of the network, for the message.

    Raises:
        ValueError: if there are no logits.

    Example:
        >>> import torch
        >>> find_outputs({"out": torch.zeros(1, 2), "aux": torch.ones(1, 2)}, "FCN")
        Outputs(logits=tensor([[0., 0.]]), auxiliary=(tensor([[1., 1.]]),))
        >>> find_outputs({"boxes": torch.zeros(1, 4)}, "RetinaNet")
        Traceback (most recent call last):
        ValueError: RetinaNet gives a dict with boxes, and none of them is called logits or out: ...
    """
    if isinstance(answer, Tensor):
        return Outputs(answer)
    named = _named(answer)
    for name in _LOGITS:
        if isinstance(logits := named.get(name), Tensor):
            extra = (value for key, value in named.items() if key.startswith("aux"))
            return Outputs(logits, tuple(value for value in extra if isinstance(value, Tensor)))
    if not named and isinstance(answer, Sequence) and answer and isinstance(answer[0], Tensor):
        return Outputs(answer[0])
    kind = type(answer).__name__
    if named:
        kind += f" with {', '.join(named)}, and none of them is called {' or '.join(_LOGITS)}"
    raise ValueError(
        f"{network} gives a {kind}: the logits must be a tensor, `logits` or `out` of a mapping "
        "or an object, or the first part of a tuple; wrap the network in a module that gives "
        "them."
    )


def _named(answer: Any) -> dict[str, Any]:
    """The parts of an answer that have names."""
    if isinstance(answer, Mapping):
        return {str(key): value for key, value in answer.items()}
    if hasattr(answer, "_asdict"):  # a named tuple
        parts: dict[str, Any] = answer._asdict()
        return parts
    if is_dataclass(answer):
        return {field.name: getattr(answer, field.name) for field in fields(answer)}
    named = dict(vars(answer)) if hasattr(answer, "__dict__") else {}
    # Properties and slots are in no `__dict__`.
    return named | {name: getattr(answer, name) for name in _LOGITS if hasattr(answer, name)}
