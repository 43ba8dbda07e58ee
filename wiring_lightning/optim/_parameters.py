"""The parameters that an optimizer updates."""

from torch.nn import Parameter
from torch.optim import Optimizer


def parameters_of(optimizer: Optimizer) -> list[Parameter]:
    """All parameters of an optimizer, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
