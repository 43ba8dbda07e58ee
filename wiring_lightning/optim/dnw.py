"""Sparse weights that learn which of them are there, behind any optimizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wiring_lightning.functional import LargestMagnitudes, mask_largest


@dataclass(eq=False)
class EdgeSet:
    """Weights among which the k largest magnitudes are the edges of a network.

    Args:
        weights: one or more parameters; all their entries compete with each other.
        k: number of edges.
        usable: for each parameter a mask of the entries that can ever be an edge, or `None`.
        absent: for each parameter that is sparse already, what its absent entries start from, or
            `None`.

    Raises:
        ValueError: if there are fewer usable entries than `k`, or a mask has another shape.
    """

    weights: Sequence[Tensor]
    k: int
    usable: Sequence[Tensor | None] = ()
    absent: Sequence[Tensor | None] = ()
    largest: LargestMagnitudes = field(init=False)

    def __post_init__(self) -> None:
        self.usable = self.usable or [None] * len(self.weights)
        self.absent = self.absent or [None] * len(self.weights)
        count = 0
        for weight, mask in zip(self.weights, self.usable, strict=True):
            if mask is not None and mask.shape != weight.shape:
                raise ValueError(
                    f"a mask of shape {tuple(mask.shape)} was given for a weight of shape "
                    f"{tuple(weight.shape)}."
                )
            count += weight.numel() if mask is None else int(mask.sum())
        if not 0 <= self.k <= count:
            raise ValueError(
                f"the number of edges must be between 0 and {count}, the weights that can be one, "
                f"got {self.k}."
            )
        self.largest = LargestMagnitudes(self.k)

    @torch.no_grad()
    def latent(self) -> list[Tensor]:
        """For each parameter the dense weights to start from."""
        return [
            weight.detach().clone() if absent is None else weight.detach() + absent
            for weight, absent in zip(self.weights, self.absent, strict=True)
        ]

    def keep_largest(self, latent: Sequence[Tensor]) -> None:
        """Write the `k` largest of the latent weights into the parameters, and zeros elsewhere."""
        self.largest.keep(latent, self.weights, self.usable)


def keep_masked(values: list[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Zeros where a mask has none; a tensor without anything to remove is returned as it is."""
    kept = [
        value if mask is None else torch.where(mask.to(value.device), value, 0)
        for value, mask in zip(values, masks, strict=True)
    ]
    same = all(torch.equal(value, own) for value, own in zip(values, kept, strict=True))
    return values if same else kept


class StraightThrough:
    """Keeps dense latent weights behind an optimizer of sparse parameters (DNW, Section 2.2).

    Outside the update, a parameter holds its edges and zeros elsewhere: forward, evaluation,
    checkpoints and exports see the sparse network at no cost, and the gradient of a parameter is
    that of its edges, and of absent edges as if they were there: it flows to absent edges, but not
    through them. For the update a parameter's memory is exchanged for that of its latent weights;
    the optimizer (any optimizer, with its momentum and weight decay) updates all of them, and the k
    largest are the new edges.

    Skipped steps of a gradient scaler and accumulated gradients need nothing: all happens inside
    `optimizer.step()`, and only there.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: what is sparse; each set has an edge count of its own.

    Raises:
        ValueError: if a parameter is not in the optimizer, or is in two sets.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1]))
        >>> sgd = torch.optim.SGD([weight], lr=1.0)
        >>> rule = StraightThrough(sgd, [EdgeSet([weight], k=1)])
        >>> weight.tolist()
        [0.5, 0.0, 0.0]
        >>> weight.grad = torch.tensor([0.25, 0.5, 0.0])  # the absent edge grows beyond the other
        >>> sgd.step()
        >>> [round(value, 6) for value in weight.tolist()]
        [0.0, -0.9, 0.0]
    """

    def __init__(self, optimizer: Optimizer, edge_sets: Sequence[EdgeSet]) -> None:
        self.edge_sets = list(edge_sets)
        self.optimizer = optimizer
        self.frozen = False
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        weights = self._weights
        if len({id(weight) for weight in weights}) < len(weights):
            raise ValueError("a parameter is in two edge sets; each can have one edge count only.")
        if any(id(weight) not in known for weight in weights):
            raise ValueError("a sparse parameter is not in the optimizer, so it would never learn.")
        self.latent = [latent for edges in self.edge_sets for latent in edges.latent()]
        self._fixed: list[Tensor] = []  # the edges, once they are frozen
        # The parameters' own memory, while the latent weights stand in for it.
        self._lent: list[Tensor] = []
        self._swap_in()
        self._swap_out()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def _weights(self) -> list[Tensor]:
        return [weight for edges in self.edge_sets for weight in edges.weights]

    @property
    def masks(self) -> list[Tensor]:
        """For each parameter which of its weights are edges."""
        return self._fixed or [weight.detach() != 0 for weight in self._weights]

    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """Other values of an edge set's parameters, such as averages, with as many edges as it has.

        Frozen edges stay; otherwise the k largest of the values are kept.

        Args:
            first: number of the set's first parameter among all of this rule.
            values: of its parameters.
        """
        edges, number = next(iter(self.edge_sets)), 0
        for edges in self.edge_sets:
            if number == first:
                break
            number += len(edges.weights)
        if self.frozen:
            masks = self._fixed[first : first + len(values)]
        elif sum(int(value.count_nonzero()) for value in values) <= edges.k:
            return values
        else:
            masks = mask_largest(values, edges.k, edges.usable)
        return keep_masked(values, masks)

    def freeze(self) -> None:
        """Keep the present edges for good; only their weights learn from now on."""
        self._fixed = self.masks
        self.frozen = True

    def detach(self) -> None:
        """Leave the optimizer; the parameters stay as sparse as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """The latent weights, and the edges once they are frozen."""
        return {"latent": self.latent, "masks": self._fixed, "frozen": self.frozen}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; the parameters become its sparse weights.

        Raises:
            ValueError: if the state belongs to other weights.
        """
        shapes = [tuple(latent.shape) for latent in state["latent"]]
        if shapes != [tuple(latent.shape) for latent in self.latent]:
            raise ValueError(
                "the saved latent weights have other shapes than the sparse layers of this model: "
                "use the same model and the same choice of layers as in the saved run."
            )
        for latent, saved in zip(self.latent, state["latent"], strict=True):
            latent.copy_(saved)
        self._fixed = [mask.to(self.latent[0].device) for mask in state["masks"]]
        self.frozen = state["frozen"]
        self._write_sparse()

    def _before_step(
        self, _: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # The first positional argument is the optimizer itself.
        given = keywords.get("closure", arguments[1] if len(arguments) > 1 else None)
        if given is None:
            self._swap_in()
            return arguments, keywords
        return arguments[:1], {**keywords, "closure": self._around(given)}

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure that runs on the sparse network and leaves the latent weights in place."""

        def wrapped() -> Any:
            self._swap_out()  # for an optimizer that evaluates several times per step
            result = closure()
            self._swap_in()
            return result

        return wrapped

    def _after_step(self, *_: Any) -> None:
        self._swap_out()

    def _swap_in(self) -> None:
        """Let every parameter be its latent weights."""
        self._lent = [weight.data for weight in self._weights]
        for weight, latent in zip(self._weights, self.latent, strict=True):
            weight.data = latent

    @torch.no_grad()
    def _swap_out(self) -> None:
        """Choose the edges among the latent weights, and let every parameter be sparse again."""
        if not self._lent:
            return
        self.latent = [weight.data for weight in self._weights]
        for weight, sparse in zip(self._weights, self._lent, strict=True):
            weight.data = sparse
        self._lent = []
        self._write_sparse()

    @torch.no_grad()
    def _write_sparse(self) -> None:
        if self.frozen:
            for weight, latent, mask in zip(self._weights, self.latent, self._fixed, strict=True):
                torch.mul(latent, mask, out=weight)
            return
        latents = iter(self.latent)
        for edges in self.edge_sets:
            edges.keep_largest([next(latents) for _ in edges.weights])
