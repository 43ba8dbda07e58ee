"""Weights that stay at zero, with any optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.functional import mask_largest
from wiring_lightning.optim._counts import count_usable
from wiring_lightning.optim._masks import copy_masked, keep_masked, mask_gradients
from wiring_lightning.optim._step_hooks import StepHooks
from wiring_lightning.optim.dnw import EdgeSet


class MaskedWeights:
    """Keeps the entries of parameters outside of a mask at zero, with any optimizer.

    They are set to zero at once and after every step, even if the optimizer has momentum for them.
    Call `mask_gradients` before a step if their gradients matter, as for clipping by norm.

    Args:
        optimizer: the optimizer that holds the parameters.
        weights: the parameters.
        masks: for each parameter a mask of the entries to keep, or `None` to keep all.

    Raises:
        ValueError: if a mask has another shape than its parameter.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4]))
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> rule = MaskedWeights(sgd, [weight], [torch.tensor([True, False])])
        >>> weight.grad = torch.tensor([0.25, 0.25])
        >>> sgd.step()
        >>> weight.tolist()
        [0.25, 0.0]
    """

    frozen = True

    def __init__(
        self, optimizer: Optimizer, weights: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> None:
        self.optimizer = optimizer
        self.weights = list(weights)
        self.masks: list[Tensor | None] = []
        self.keep(masks)
        self._hooks = StepHooks(optimizer, after=self._after_step)

    def keep(self, masks: Sequence[Tensor | None]) -> None:
        """Replace the masks; entries that become present start from zero.

        Raises:
            ValueError: if a mask has another shape than its parameter.
        """
        if len(masks) != len(self.weights) or any(
            mask is not None and mask.shape != weight.shape
            for mask, weight in zip(masks, self.weights, strict=False)
        ):
            raise ValueError(
                "the masks have other shapes than the sparse layers of this model: use the same "
                "model and the same choice of layers as in the saved run."
            )
        self.masks = [
            mask if mask is None else mask.to(weight.device)
            for mask, weight in zip(masks, self.weights, strict=True)
        ]
        self._mask()

    def freeze(self) -> None:
        """Fix the present edges: nothing to do, the masks stay as they are."""

    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """Make other values of some parameters as sparse as their masks; see `StraightThrough`."""
        return keep_masked(values, self.masks[first : first + len(values)])

    def mask_gradients(self) -> None:
        """Set the gradients of entries outside of the masks to zero."""
        mask_gradients(self.weights, self.masks)

    @torch.no_grad()
    def penalize(self, strength: float) -> None:
        """Add the gradient of `strength` times the sum of all magnitudes (L1 regularization)."""
        for weight in self.weights:
            if weight.grad is not None:
                if weight.grad.is_sparse:  # as of an embedding
                    weight.grad = weight.grad.to_dense()
                weight.grad.add_(weight.sgn(), alpha=strength)

    def know_again(self) -> None:
        """As for `StraightThrough`; here what others write needs no care."""

    def detach(self) -> None:
        """Remove the hook from the optimizer; the parameters keep their present values."""
        self._hooks.remove()

    def state_dict(self) -> dict[str, Any]:
        """The masks."""
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the masks of a state."""
        self.keep(state["masks"])

    def _after_step(self, *_: Any) -> None:
        self._mask()

    def _mask(self) -> None:
        copy_masked(self.weights, self.masks, self.weights)


class PrunedWeights(MaskedWeights):
    """Removes weights by magnitude, for good, with any optimizer.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: the weights, and how many of them remain at the end.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1, 0.2, -0.3]))
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> rule = PrunedWeights(sgd, [EdgeSet([weight], k=1)])
        >>> rule.prune(0.5)  # half of the way
        >>> [round(value, 6) for value in weight.tolist()]
        [0.5, -0.4, 0.0, 0.0, -0.3]
    """

    def __init__(self, optimizer: Optimizer, edge_sets: Sequence[EdgeSet]) -> None:
        self.edge_sets = list(edge_sets)
        weights = [weight for edges in self.edge_sets for weight in edges.weights]
        usable = [mask for edges in self.edge_sets for mask in edges.usable]
        super().__init__(optimizer, weights, usable)
        self.frozen = False

    @override
    def freeze(self) -> None:
        """Remove all weights that must go."""
        self.prune(1.0)
        self.frozen = True

    def prune(self, progress: float) -> None:
        """Remove weights by magnitude until a share of those that must go is gone.

        Args:
            progress: that share, from 0 to 1. A lower one than before brings nothing back.
        """
        old_masks, masks = iter(self.masks), list[Tensor]()
        for edges in self.edge_sets:
            own = [next(old_masks) for _ in edges.weights]
            count = count_usable(edges.weights, edges.usable)
            wanted = count - round((count - edges.k) * progress)
            present = count_usable(edges.weights, own)
            masks += mask_largest(edges.weights, min(wanted, present), own, edges.least)
        self.keep(masks)
