"""The straight-through estimator of DNW for sparse weights, with any optimizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from wiring_lightning._checks import plain_number
from wiring_lightning.functional import LargestMagnitudes, mask_largest
from wiring_lightning.functional._largest_of_sets import keep_largest_of_sets
from wiring_lightning.functional.mask_times import MaskTimes
from wiring_lightning.optim._counts import count_present, count_usable
from wiring_lightning.optim._masks import copy_masked, keep_masked, mask_gradients
from wiring_lightning.optim._parameters import parameters_of
from wiring_lightning.optim._skipped import step_was_skipped
from wiring_lightning.optim._step_hooks import Arguments, StepHooks, around_gradients
from wiring_lightning.optim._writes import with_writes


@dataclass(eq=False)
class EdgeSet:
    """Weights among which the k largest magnitudes are the edges of a network.

    Args:
        weights: one or more parameters; `k` counts over all of their entries.
        k: number of edges.
        usable: for each parameter a mask of the entries that can be an edge, or `None` for all.
        absent: for each parameter that is already sparse, the initial latent weights of its absent
            entries, zeros elsewhere; otherwise `None`.
        least: how many entries of every parameter are edges first, its own largest, as long as `k`
            is enough for all of them.

    Raises:
        ValueError: if there are fewer usable entries than `k`, or a mask has another shape.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1]))
        >>> edges = EdgeSet([weight], k=1)
        >>> edges.keep_largest(edges.latent())
        >>> weight.tolist()
        [0.5, 0.0, 0.0]
    """

    weights: Sequence[Tensor]
    k: int
    usable: Sequence[Tensor | None] = ()
    absent: Sequence[Tensor | None] = ()
    least: int = 0
    largest: LargestMagnitudes = field(init=False)

    def __post_init__(self) -> None:
        self.k = plain_number(self.k)
        self.usable = self.usable or [None] * len(self.weights)
        self.absent = self.absent or [None] * len(self.weights)
        for weight, mask in zip(self.weights, self.usable, strict=True):
            if mask is not None and mask.shape != weight.shape:
                raise ValueError(
                    f"a mask of shape {tuple(mask.shape)} was given for a weight of shape "
                    f"{tuple(weight.shape)}."
                )
        count = count_usable(self.weights, self.usable)
        if not 0 <= self.k <= count:
            raise ValueError(
                f"the number of edges must be between 0 and {count}, the weights that can be one, "
                f"got {self.k}."
            )
        self.largest = LargestMagnitudes(self.k)

    @torch.no_grad()
    def latent(self) -> list[Tensor]:
        """The initial latent weights: one dense tensor for each parameter."""
        return [
            weight.detach().clone() if absent is None else weight.detach() + absent
            for weight, absent in zip(self.weights, self.absent, strict=True)
        ]

    @torch.no_grad()
    def keep_largest(self, latent: Sequence[Tensor]) -> None:
        """Write the `k` largest of the latent weights into the parameters, and zeros elsewhere."""
        if self.least and len(self.weights) > 1:
            masks = mask_largest(latent, self.k, self.usable, self.least)
            for weight, own, mask in zip(self.weights, latent, masks, strict=True):
                weight.copy_(torch.where(mask, own, 0))
            return
        self.largest.keep(latent, self.weights, self.usable)

    def limits(self, values: Sequence[Tensor]) -> list[Tensor]:
        """For each parameter what absent weights must stay below, so that these values are edges.

        That is the smallest of the `k` largest magnitudes, or the smallest but zero if there are
        fewer.
        """
        magnitudes = torch.cat([value.detach().abs().flatten() for value in values])
        largest = magnitudes.topk(max(self.k, 1), sorted=False).values
        return [torch.where(largest > 0, largest, torch.inf).amin()] * len(values)


@torch.no_grad()
def keep_largest_together(
    edge_sets: Sequence[EdgeSet], latents: Sequence[Sequence[Tensor]]
) -> None:
    """Call `keep_largest` of several sets; on accelerators sets of one size share their kernels."""
    shared: dict[Any, list[int]] = {}
    for number, (edges, latent) in enumerate(zip(edge_sets, latents, strict=True)):
        if _can_share(edges, latent):
            shared.setdefault((latent[0].dtype, latent[0].device), []).append(number)
        else:
            edges.keep_largest(latent)
    for numbers in shared.values():
        sets = [edge_sets[number] for number in numbers]
        keep_largest_of_sets(
            [latents[number] for number in numbers],
            [edges.weights for edges in sets],
            [edges.usable for edges in sets],
            [edges.k for edges in sets],
        )


def _can_share(edges: EdgeSet, latent: Sequence[Tensor]) -> bool:
    """Whether nothing but its numbers and `k` decides what a set on an accelerator keeps."""
    alike = len({(part.dtype, part.device) for part in latent}) == 1
    plain = type(edges) is EdgeSet and (edges.least == 0 or len(edges.weights) == 1)
    return alike and plain and latent[0].device.type != "cpu" and latent[0].is_floating_point()


class StraightThrough:
    """Lets an optimizer update dense latent weights of sparse parameters (DNW, Section 2.2).

    Between steps a parameter holds its edges, and zeros elsewhere. So forward passes, evaluation,
    checkpoints and exports use the sparse network at no cost. A dense gradient reaches all entries:
    it flows to absent edges, but not through them.

    During `optimizer.step()` the parameter's data is its latent weights. The optimizer (any
    optimizer, with its momentum and weight decay) updates all of them, and the k largest become
    the new edges. Accumulated gradients and steps that a gradient scaler skips need no extra care.

    Values that other code writes into a parameter between steps, as `load_state_dict`,
    `reset_parameters` or a clamp under `torch.no_grad()` do, become latent weights in the next
    step. Absent weights are then limited, so that they do not take the place of what was written.
    A freeze takes them, too. PyTorch does not tell of writes into `parameter.data`: those in place
    are lost in the next step.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: the sparse parameters; each set has its own number of edges.
        times: how the numbers of edges fall to those of the sets, step by step; by default they
            are the same from the start. Only its steps and densities count.

    Attributes:
        latent: the latent weights, one dense tensor for each parameter.
        frozen: whether the edges stay for good.

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

    def __init__(
        self,
        optimizer: Optimizer,
        edge_sets: Sequence[EdgeSet],
        times: MaskTimes | None = None,
    ) -> None:
        self.edge_sets = list(edge_sets)
        self.times = times
        self.steps = 0  # real steps so far, if the numbers of edges depend on them
        # The final number of edges of every set, and how many there could be; none if they stay.
        changing = [] if times is None else self.edge_sets
        self._range = [(e.k, count_usable(e.weights, e.usable)) for e in changing]
        self.frozen = False
        self._set_numbers(self._planned())
        self.optimizer = optimizer
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        weights = self._weights
        if len({id(weight) for weight in weights}) < len(weights):
            raise ValueError("a parameter is in two edge sets; each can have one edge count only.")
        if any(id(weight) not in held for weight in weights):
            raise ValueError("a sparse parameter is not in the optimizer, so it would never learn.")
        self.latent = [latent for edges in self.edge_sets for latent in edges.latent()]
        self._fixed: list[Tensor] = []  # masks of the edges, once they are frozen
        self._sparse: list[Tensor] = []  # the parameters' own memory during a step
        self._written = self._marks()
        self._swap_in()
        self._swap_out()
        self._hooks = StepHooks(optimizer, self._before_step, self._after_step)

    @property
    def _weights(self) -> list[Tensor]:
        return [weight for edges in self.edge_sets for weight in edges.weights]

    @property
    def masks(self) -> list[Tensor]:
        """For each parameter a mask of its edges."""
        return self._fixed or [weight.detach() != 0 for weight in self._weights]

    def mask_gradients(self) -> None:
        """Set the gradients of absent edges to zero, so that only the present ones learn."""
        mask_gradients(self._weights, self.masks)

    def settled(self, first: int, values: list[Tensor]) -> list[Tensor]:
        """Make other values of an edge set's parameters, such as averages, as sparse as they are.

        Frozen edges stay; otherwise the k largest of the values are kept. If nothing changes, the
        same list is returned.

        Args:
            first: index of the set's first parameter among all parameters of this rule.
            values: values for the parameters of this set.
        """
        if self.frozen:
            return keep_masked(values, self._fixed[first : first + len(values)])
        edges = self._set_at(first)
        if count_present(values) <= edges.k:
            return values
        return keep_masked(values, mask_largest(values, edges.k, edges.usable, edges.least))

    def _set_at(self, first: int) -> EdgeSet:
        """The edge set whose first parameter has this index among all parameters of this rule."""
        starts = accumulate((len(edges.weights) for edges in self.edge_sets), initial=0)
        return next(e for e, start in zip(self.edge_sets, starts, strict=False) if start == first)

    @property
    def due(self) -> bool:
        """Whether the sets have their final numbers of edges."""
        return self.times is None or self.frozen or self.steps >= self.times.final_step

    def _planned(self) -> list[int]:
        """For every set the number of edges that such a training has after so many steps."""
        if self.times is None or self.frozen:
            return [k for k, _ in self._range]
        return [self.times.edges(self.steps, k, count) for k, count in self._range]

    def _set_numbers(self, numbers: Sequence[int]) -> None:
        """Give every set another number of edges; none are given if they never change."""
        for edges, number in zip(self.edge_sets, numbers, strict=False):
            edges.k = edges.largest.k = number

    def freeze(self) -> None:
        """Fix the edges, the final number of them; from now on only their weights learn."""
        if self.frozen:
            return
        self._take_writes()
        self._set_numbers([k for k, _ in self._range])
        self._write_sparse()
        self._fixed = self.masks
        self.frozen = True

    def know_again(self) -> None:
        """Say that the parameters have the values again that this rule has written last."""
        self._written = self._marks()

    def detach(self) -> None:
        """Remove the hooks from the optimizer; the parameters keep their present values.

        After an error inside of a step they get the edges of what the optimizer has left.
        """
        self._hooks.remove()
        self._swap_out()

    def state_dict(self) -> dict[str, Any]:
        """The latent weights, and the masks of the edges if they are frozen."""
        state = {"latent": self._present_latent(), "masks": self._fixed, "frozen": self.frozen}
        if self.times is None:
            return state
        return {**state, "steps": self.steps, "present": [edges.k for edges in self.edge_sets]}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, and write its sparse weights into the parameters."""
        shapes = [tuple(latent.shape) for latent in state["latent"]]
        if shapes != [tuple(latent.shape) for latent in self.latent]:
            raise ValueError(
                "the saved latent weights have other shapes than the sparse layers of this model: "
                "use the same model and the same choice of layers as in the saved run."
            )
        for latent, saved in zip(self.latent, state["latent"], strict=True):
            latent.copy_(saved)
        masks = zip(state["masks"], self.latent, strict=False)  # no masks before the freeze
        self._fixed = [mask.to(latent.device) for mask, latent in masks]
        self.frozen = state["frozen"]
        # A state without steps is that of a training whose numbers of edges were the final ones.
        self.steps = state.get("steps", 0 if self.times is None else self.times.final_step)
        planned = self._planned()
        # A state of an earlier version lacks the numbers; they follow from its steps.
        self._set_numbers(list(map(min, planned, state.get("present", planned))))
        self._write_sparse()

    def _before_step(
        self, _: Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Arguments:
        self._swap_out()  # does nothing unless the last step ended with an error
        # An optimizer may call its closure several times in a step.
        return around_gradients(arguments, keywords, after=self._swap_in, before=self._swap_out)

    def _after_step(self, *_: Any) -> None:
        # Once all edges are gone that must go, a skipped step may count: to ask for it can make
        # the host wait.
        if self.times is not None and (self.due or not step_was_skipped(self.optimizer)):
            self._count_step(self.times)
        self._swap_out()

    def _count_step(self, times: MaskTimes) -> None:
        """Count a real step, and set the numbers of edges after it."""
        was_due = self.due
        self.steps += 1
        if not was_due:
            pairs = zip(self.edge_sets, self._range, strict=True)
            self._set_numbers([times.edges_after(self.steps, e.k, *size) for e, size in pairs])

    def _marks(self) -> list[tuple[int, int]]:
        """Versions and addresses of the parameters, which change when something writes there."""
        return [(weight._version, weight.data_ptr()) for weight in self._weights]

    @torch.no_grad()
    def _present_latent(self) -> list[Tensor]:
        """The latent weights, with what others have written into the parameters since this rule."""
        if self._sparse or self._marks() == self._written:
            return self.latent
        found = [weight.detach().clone() for weight in self._weights]
        self._write_edges()  # for a moment, to see what others have changed
        latent, first = list[Tensor](), 0
        for edges in self.edge_sets:
            own = slice(first, first + len(edges.weights))
            limits = edges.limits(found[own])
            latent += with_writes(found[own], edges.weights, self.latent[own], limits)
            first = own.stop
        for weight, value in zip(self._weights, found, strict=True):
            weight.copy_(value)
        return latent

    @torch.no_grad()
    def _take_writes(self) -> None:
        """Make what others have written into the parameters part of the latent weights."""
        for latent, present in zip(self.latent, self._present_latent(), strict=True):
            if present is not latent:
                latent.copy_(present)

    def _swap_in(self) -> None:
        """Make the latent weights the data of every parameter."""
        self._take_writes()
        self._sparse = [weight.data for weight in self._weights]
        for weight, latent in zip(self._weights, self.latent, strict=True):
            weight.data = latent

    @torch.no_grad()
    def _swap_out(self) -> None:
        """Give every parameter its own memory again if it has not; write the new edges into it."""
        if not self._sparse:
            return
        self.latent = [weight.data for weight in self._weights]
        for weight, sparse in zip(self._weights, self._sparse, strict=True):
            weight.data = sparse
        self._sparse = []
        self._write_sparse()

    def _write_sparse(self) -> None:
        """Write the edges into the parameters, and remember that this rule did."""
        self._write_edges()
        self._written = self._marks()

    @torch.no_grad()
    def _write_edges(self) -> None:
        if self.frozen:
            copy_masked(self.latent, self._fixed, self._weights)
            return
        latents = iter(self.latent)
        by_set = [[next(latents) for _ in edges.weights] for edges in self.edge_sets]
        keep_largest_together(self.edge_sets, by_set)
