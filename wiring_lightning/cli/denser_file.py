"""Whether a checkpoint has more weights than its run was asked for."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wiring_lightning.checkpoints.naming import plain_name


def say_if_denser(path: Path, content: Mapping[str, Any]) -> None:
    """Warn of a checkpoint from before a learner had removed all weights that it was to remove.

    The best checkpoint of a run may be one, and so may its last one, which Lightning writes only
    together with the best. A file that holds weights only does not say what was asked for.

    Args:
        path: the file.
        content: what it holds.
    """
    for learner, name, count, k in _denser(content):
        warnings.warn(
            f"The checkpoint {path} was saved before {learner} had removed all weights: {name} has "
            f"{count:,}, and {k:,} were asked for. Take a later checkpoint of the run, or one that "
            "trainer.save_checkpoint writes after the fit.",
            stacklevel=2,
        )
        return  # once is enough


def _denser(content: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    """Learner, name, number of weights and what was asked for, of what has more than that."""
    weights, states = content.get("state_dict"), content.get("callbacks")
    if not isinstance(weights, Mapping) or not isinstance(states, Mapping):
        return
    saved = {plain_name(name): value for name, value in weights.items()}
    for key, state in states.items():
        asked, members = (_mapping(state, part) for part in ("edges", "weights"))
        for name in filter(asked.__contains__, members):
            values = [saved.get(member) for member in members[name]]
            count = sum(int(one.count_nonzero()) for one in values if isinstance(one, Tensor))
            if count > asked[name]:
                yield str(key).partition("{")[0], name, count, asked[name]


def _mapping(state: Any, part: str) -> Mapping[str, Any]:
    """A part of a callback's state; empty if the callback is of another kind."""
    found = state.get(part) if isinstance(state, Mapping) else None
    return found if isinstance(found, Mapping) else {}
