"""States of learners in a checkpoint that no callback of a fit takes over."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from wiring_lightning._checks import listed


def warn_of_other_states(learner: Callback, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Say which states are left if a fit resumes from a checkpoint without one of this learner.

    The class of a learner and its choice of layers are the key of its state. With another class or
    other layers the weights that were learned are masked anew.
    """
    states = checkpoint.get("callbacks") or {}
    if trainer.state.fn != TrainerFn.FITTING or learner.state_key in states:
        return
    taken = {callback.state_key for callback in trainer.callbacks}
    left = [
        str(key)
        for key, state in states.items()
        if key not in taken and isinstance(state, Mapping) and "rules" in state
    ]
    if left:
        rank_zero_warn(
            f"{type(learner).__name__}: the checkpoint has the state of {listed(left)}, which no "
            "callback takes over, so this one chooses its weights anew; to go on with what was "
            "learned, give the same class with the same layers, groups and exclude."
        )
