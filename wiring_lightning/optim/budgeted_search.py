"""Policy gradient on the logits of sampled edges."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.functional import leave_one_out, policy_gradient
from wiring_lightning.functional.transfer import send
from wiring_lightning.nn import BernoulliGate
from wiring_lightning.optim._gate_optimizer import GateOptimizer


class Reinforce(GateOptimizer[BernoulliGate]):
    """Gradient descent on the probabilities of edges (BSN, Equation 7, first term).

    A forward pass in training mode samples an architecture per example. `observe` takes the
    objective of each example, such as `functional.budgeted_objective`, and adds to the gradient of
    the logits, which has a closed form. `step` is plain gradient descent: no momentum, no decay.

    The baseline of an example is the mean objective of the *other* examples of its batch, so the
    estimate is unbiased (see `functional.leave_one_out`). A batch of one example has no baseline.
    Several batches before one step count as one large batch, but each has its own baselines.
    Entries whose gradient is not finite are not updated.

    Args:
        gates: the gates to learn; frozen ones are skipped.
        lr: learning rate.
        baseline: whether to subtract the baseline. Without it the estimate is also unbiased, but
            its variance is much larger.

    Raises:
        ValueError: if there is no gate or the learning rate is negative; from `observe`, if there
            was no forward pass, or it had another number of examples.

    Example:
        >>> gate = BernoulliGate(nodes=2, source=[0, 0], target=[1, 1], initial=0.0)
        >>> gate.seed(0)
        >>> optimizer = Reinforce([gate], lr=1.0)
        >>> for _ in range(50):  # the first edge lowers the objective, the second raises it
        ...     drawn = gate.draw(batch=16).float()
        ...     optimizer.observe(drawn @ torch.tensor([-2.0, 2.0]))
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> gate.best
        tensor([ True, False])
    """

    def __init__(
        self, gates: Iterable[BernoulliGate], lr: float = 0.1, baseline: bool = True
    ) -> None:
        super().__init__(gates, "logits", {"lr": lr, "baseline": baseline, "steps": 0})
        self._observed = 0

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_observed": self._observed}

    @torch.no_grad()
    def observe(self, objective: Tensor) -> None:
        """Add the gradient of an objective to the logits of every gate.

        Logits that take no gradient (`requires_grad` is false) stay as they are.

        Args:
            objective: `[batch]` loss and penalty of every example of the last forward pass.
        """
        objective = objective.detach()
        gates = [gate for gate in self.learning if gate.logits.requires_grad]
        for gate in gates:
            _check(gate, objective)
        if all(gate.logits.grad is None for gate in gates):
            self._observed = 0  # the gradients were zeroed without `zero_grad` of this optimizer
        advantage = leave_one_out(objective) if self.group["baseline"] else objective
        self._observed += len(objective)
        share = len(objective) / self._observed
        for gate in gates:
            assert gate.drawn is not None
            assert gate.asked is not None
            device = gate.logits.device
            drawn, asked = send(torch.stack([gate.drawn, gate.asked]), device)
            gradient = policy_gradient(gate.logits, drawn, asked, advantage.to(device))
            if gate.logits.grad is None:
                gate.logits.grad = gradient
            else:
                gate.logits.grad.lerp_(gradient, share)

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients of all observed batches."""
        super().zero_grad(set_to_none)
        self._observed = 0

    @override
    def _update(self) -> None:
        # A state from before steps were counted has none.
        self.group["steps"] = self.group.get("steps", 0) + bool(self.learning)
        for gate in self.learning:
            if gate.logits.grad is not None:
                gradient = gate.logits.grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                gate.logits.sub_(gradient, alpha=self.group["lr"])


def _check(gate: BernoulliGate, objective: Tensor) -> None:
    if gate.drawn is None:
        raise ValueError("nothing was drawn yet: run the network in training mode first.")
    if objective.dim() != 1 or len(objective) != len(gate.drawn):
        raise ValueError(
            f"observe needs one number for each of the {len(gate.drawn)} examples of the last "
            f"draw, got the shape {tuple(objective.shape)}."
        )
