"""The sparse-refined straight-through estimator for N:M sparse weights (SR-STE)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.functional.n_of_m import mask_n_of_m
from wiring_lightning.optim._masks import keep_masked
from wiring_lightning.optim.dnw import EdgeSet, StraightThrough


@dataclass(eq=False)
class BlockEdgeSet(EdgeSet):
    """Weights of which the n largest of every m consecutive inputs are edges.

    The first arguments are those of `EdgeSet`; `k` is n / m of all weights.

    Args:
        n: edges of a block.
        m: length of a block.
        axis: the axis of the inputs.

    Raises:
        ValueError: if an axis cannot be cut into such blocks, or as for `EdgeSet`.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[0.5, -0.4, 0.1, 0.3]]))
        >>> [mask.tolist() for mask in BlockEdgeSet([weight], k=2, n=2, m=4).masks([weight])]
        [[[True, True, False, False]]]
    """

    n: int = 2
    m: int = 4
    axis: int = 1

    def masks(self, values: Sequence[Tensor]) -> list[Tensor]:
        """For each of the values a mask of the n largest of every block."""
        return [mask_n_of_m(value, self.n, self.m, self.axis) for value in values]

    @override
    @torch.no_grad()
    def keep_largest(self, latent: Sequence[Tensor]) -> None:
        """Write the n largest of every block into the parameters, and zeros elsewhere."""
        for weight, own, mask in zip(self.weights, latent, self.masks(latent), strict=True):
            # On a CPU a product with a mask takes twice as long as one with its copied bytes.
            weight.copy_(mask.view(torch.int8)).mul_(own)

    @override
    def limits(self, values: Sequence[Tensor]) -> list[Tensor]:
        """As for `EdgeSet`, in every block: for each parameter a tensor of its shape."""
        found = list[Tensor]()
        for value, mask in zip(values, self.masks(values), strict=True):
            edges = torch.where(mask & (value != 0), value.detach().abs(), torch.inf)
            blocks = edges.unflatten(self.axis, (-1, self.m)).amin(self.axis + 1)
            found.append(blocks.repeat_interleave(self.m, self.axis))
        return found


class SparseRefined(StraightThrough):
    """Lets an optimizer train N:M sparse weights with SR-STE (Zhou et al., Equation 9).

    The optimizer updates dense latent weights with the gradient `g(w) + decay (1 - mask) w`: that
    of the sparse weights, and a decay of those that are absent, so that the choice settles. Call
    `decay_absent` before every step.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: the sparse parameters.
        decay: the paper's lambda_w.

    Raises:
        ValueError: as for `StraightThrough`.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[0.5, -0.4, 0.1, 0.3]]))
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> rule = SparseRefined(sgd, [BlockEdgeSet([weight], k=2)], decay=0.5)
        >>> weight.grad = torch.tensor([[0.0, 0.2, 0.0, 0.0]])
        >>> rule.decay_absent()
        >>> sgd.step()
        >>> [round(value, 4) for value in rule.latent[0][0].tolist()]
        [0.5, -0.6, 0.05, 0.15]
    """

    def __init__(
        self, optimizer: Optimizer, edge_sets: Sequence[BlockEdgeSet], decay: float = 2e-4
    ) -> None:
        self.decay = decay
        super().__init__(optimizer, edge_sets)

    @torch.no_grad()
    def decay_absent(self, scale: float = 1.0) -> None:
        """Add the decay of absent weights to the gradients.

        Args:
            scale: by what the optimizer divides the gradients later.
        """
        latents = self._present_latent()
        for weight, latent in zip(self._weights, latents, strict=True):
            if weight.grad is not None:
                if weight.grad.is_sparse:  # as of an embedding
                    weight.grad = weight.grad.to_dense()
                # A weight is its latent one or zero, so the difference is what is absent.
                weight.grad.add_(latent - weight, alpha=self.decay * scale)

    @override
    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """Make other values N:M sparse, such as averages; see `StraightThrough`."""
        if self.frozen:
            return super().settled(first, values)
        edges = self._set_at(first)
        assert isinstance(edges, BlockEdgeSet)
        return keep_masked(values, edges.masks(values))
