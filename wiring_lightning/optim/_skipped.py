"""Detect optimizer steps that a gradient scaler made the optimizer skip."""

from torch.optim import Optimizer


def step_was_skipped(optimizer: Optimizer) -> bool:
    """Whether the current step of an optimizer changes nothing, because of infinite gradients.

    A gradient scaler calls optimizers with `fused=True` in any case, and they skip the step
    themselves. Their step hooks therefore also run after a skipped step.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
