"""The policy gradient of Budgeted Super Networks, in closed form."""

import torch
from torch import Tensor


def budgeted_objective(losses: Tensor, costs: Tensor, budget: float, penalty: float) -> Tensor:
    """What a drawn architecture has to answer for (BSN, Equation 4).

    Args:
        losses: `[batch]` prediction loss of every example.
        costs: `[batch]` cost of the architecture that was drawn for it.
        budget: the cost up to which nothing is added.
        penalty: lambda, what a unit of cost above the budget adds.

    Returns:
        `[batch]`.

    Example:
        >>> losses, costs = torch.tensor([1.0, 1.0]), torch.tensor([80, 130])
        >>> budgeted_objective(losses, costs, budget=100.0, penalty=0.5)
        tensor([ 1., 16.])
    """
    # The excess is taken before the cast: large costs are no float32 numbers.
    excess = (costs.double() - budget).clamp_min(0)
    dtype = torch.promote_types(losses.dtype, torch.float32)
    return losses + (penalty * excess).to(losses.device, dtype)


def leave_one_out(objective: Tensor) -> Tensor:
    """Advantage of every example: its objective minus the mean of the *other* examples.

    Equation 7 of BSN subtracts the mean of the batch. That mean contains the example itself, which
    shrinks the gradient, in expectation, by 1 - 1 / batch. Without the example it does not: this is
    batch / (batch - 1) times the paper's difference. A single example has no baseline.

    Args:
        objective: `[batch]`, of independently drawn architectures.

    Returns:
        `[batch]`.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0])).tolist()
        [-3.0, -1.5, 4.5]
    """
    count = len(objective)
    if count < 2:
        return objective
    return (objective - objective.mean()) * (count / (count - 1))


def policy_gradient(logits: Tensor, drawn: Tensor, asked: Tensor, advantage: Tensor) -> Tensor:
    """The first term of BSN's Equation 7 for the logits, averaged over the batch.

    The log-probability of a drawn edge has the gradient `1 - sigmoid(logit)`, that of an edge which
    was asked for and is not there `-sigmoid(logit)`, and an edge that was not asked for has none.

    Args:
        logits: `[edges]` gamma before the logistic function.
        drawn: `[batch, edges]` edges that are there.
        asked: `[batch, edges]` edges that were drawn: the others had no choice.
        advantage: `[batch]` what every example's draw is worth; positive is bad.

    Returns:
        `[edges]` gradient of the expected objective.

    Example:
        >>> drawn = torch.tensor([[True, False], [False, False]])
        >>> asked = torch.tensor([[True, True], [True, False]])
        >>> policy_gradient(torch.zeros(2), drawn, asked, torch.tensor([-1.0, 1.0]))
        tensor([-0.5000,  0.2500])
    """
    weights = advantage.to(logits.dtype) / len(advantage)
    came = weights @ (drawn & asked).to(logits.dtype)
    return came - logits.detach().sigmoid() * (weights @ asked.to(logits.dtype))
