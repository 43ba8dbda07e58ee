"""The learning rates of a fit, by the names of their curves."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from wiring_lightning.callbacks._gate_learner import GateLearner


def learning_rates(trainer: Trainer) -> dict[str, float | Tensor]:
    """The present rates: `weights/lr`, and `wiring/lr` of the scores behind a wiring.

    If there are several, as with groups of parameters, a number stands behind the names. The rate
    of scores is 0 once their wiring is frozen.

    Args:
        trainer: of a fit that has begun.
    """
    groups = [group for one in trainer.optimizers for group in one.param_groups if group["params"]]
    callbacks: Sequence[Any] = trainer.callbacks
    scores = [
        0.0 if learner.frozen else learner.optimizer.group["lr"]
        for learner in callbacks
        if isinstance(learner, GateLearner) and learner.optimizer is not None
    ]
    return _numbered("weights/lr", [group["lr"] for group in groups]) | _numbered(
        "wiring/lr", scores
    )


def _numbered(name: str, values: Sequence[float | Tensor]) -> dict[str, float | Tensor]:
    """Values by name; several get numbers.

    Example:
        >>> _numbered("weights/lr", [0.1]), _numbered("weights/lr", [0.1, 0.2])
        ({'weights/lr': 0.1}, {'weights/lr_1': 0.1, 'weights/lr_2': 0.2})
    """
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}
