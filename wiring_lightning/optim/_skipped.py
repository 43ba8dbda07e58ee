"""Steps that an optimizer did not take although it was called."""

from torch.optim import Optimizer


def step_was_skipped(optimizer: Optimizer) -> bool:
    """Whether the step that an optimizer is in changes nothing, because of infinite gradients.

    A gradient scaler leaves the decision to optimizers that can take it themselves (`fused=True`):
    then their hooks run after a step that was skipped, too.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
