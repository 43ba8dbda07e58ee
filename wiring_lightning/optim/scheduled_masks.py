"""Masks of sparse weights that change by rule, with any optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.functional import derived_seed, mask_largest
from wiring_lightning.functional.mask_change import change_masks
from wiring_lightning.functional.mask_times import MaskTimes
from wiring_lightning.functional.transfer import send
from wiring_lightning.optim._counts import count_present, count_usable
from wiring_lightning.optim._skipped import step_was_skipped
from wiring_lightning.optim._states import states_of
from wiring_lightning.optim.dnw import EdgeSet
from wiring_lightning.optim.mask_scores import Score, Seen, gradient, magnitude, random, sensitivity
from wiring_lightning.optim.masked_weights import MaskedWeights

# How the first mask is chosen, if it leaves out anything.
First = Literal["random", "magnitude", "sensitivity"]
FIRSTS = get_args(First)


class ScheduledMasks(MaskedWeights):
    """Changes the masks of sparse weights by rule: when, how many, what goes and what comes.

    Call `mask_gradients` before every step: it keeps the dense gradients where a change needs
    them, and then sets those of absent weights to zero. A change comes after the optimizer's step.
    Weights that come start at zero, and the optimizer's state of weights that go or come is set to
    zero. A weight that is dropped and chosen again at once stays as it is. In a parameter without a
    gradient, as a layer that is frozen or not used has in a step, nothing is replaced, and what
    must go for the number goes by magnitude.

    Args:
        optimizer: the optimizer that holds the parameters.
        edge_sets: the weights, and how many of them there are in the end.
        times: after which steps masks change, and by how much.
        drop: score of present weights; those with the lowest go.
        grow: score of the others; those with the highest come.
        first: how the first mask is chosen: at random, by magnitude, or by sensitivity. The last
            needs a gradient, so the network is dense until the first call of `mask_gradients` in
            which all weights have one.
            `None` if a state is loaded next: then all weights stay until it is.
        seed: seed of random masks and scores.
        average: factor by which the averaged gradient decays in a step; 0 without an average.
        names: a name for each set, which is part of its seeds.

    Raises:
        ValueError: as for `EdgeSet`.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1, 0.3]))
        >>> sgd = torch.optim.SGD([weight], lr=0.1)
        >>> times = MaskTimes(end=10, every=1, fraction=0.5)
        >>> rule = ScheduledMasks(sgd, [EdgeSet([weight], k=2)], times, first="magnitude")
        >>> weight.tolist()
        [0.5, -0.4000..., 0.0, 0.0]
        >>> weight.grad = torch.tensor([0.0, 0.0, 0.5, 1.0])
        >>> rule.mask_gradients()
        >>> sgd.step()  # the smaller one goes, the one of the largest gradient comes
        >>> rule.masks[0].tolist()
        [True, False, False, True]
    """

    frozen = False

    def __init__(
        self,
        optimizer: Optimizer,
        edge_sets: Sequence[EdgeSet],
        times: MaskTimes,
        drop: Score = magnitude,
        grow: Score = gradient,
        first: First | None = "random",
        seed: int = 0,
        average: float = 0.0,
        names: Sequence[str] = (),
    ) -> None:
        self.edge_sets = list(edge_sets)
        self.times = times
        self.drop, self.grow = drop, grow
        self.seed, self.average_decay = seed, average
        self.names = list(names) or [""] * len(self.edge_sets)
        self.steps = 0
        self.counts = [count_usable(edges.weights, edges.usable) for edges in self.edge_sets]
        pairs = zip(self.edge_sets, self.counts, strict=True)
        # The number of present weights of every set.
        self.present = [times.edges(0, edges.k, count) for edges, count in pairs]
        self.waiting = first == "sensitivity" and self.present != self.counts
        self._dense: list[Tensor | None] = []  # gradients of a step after which masks change
        weights = [weight for edges in self.edge_sets for weight in edges.weights]
        self.averages = [torch.zeros_like(w.detach()) for w in weights] if average else []
        super().__init__(optimizer, weights, self._first_masks(first))

    @property
    def due(self) -> bool:
        """Whether the masks have their final number of weights for good."""
        return not self.waiting and (self.frozen or self.steps >= self.times.final_step)

    def moves_any(self, until: int, since: int = 0) -> bool:
        """Whether a change after the step `since`, up to `until`, moves a weight."""
        pairs = zip(self.edge_sets, self.counts, strict=True)
        return any(self.times.moves_any(edges.k, count, until, since) for edges, count in pairs)

    def excess(self, weights: Sequence[Sequence[Tensor]] = ()) -> list[str]:
        """Sets that have more weights than their masks should leave, in words.

        Args:
            weights: what the network has in the place of the weights of every set, as after it was
                moved; by default these weights.
        """
        wrong = []
        found = weights or [edges.weights for edges in self.edge_sets]
        sets = zip(self.edge_sets, self.names, self.present, found, strict=True)
        for edges, name, present, own in sets:
            kept = count_present(own)
            most = edges.k if self.due else present
            if kept > most and not self.waiting:
                total = sum(weight.numel() for weight in own)
                wrong.append(f"{name} has {kept:,} of {total:,} weights, not {most:,}")
        return wrong

    @override
    def freeze(self) -> None:
        """Fix the masks; what must still go for the final number goes now, by magnitude."""
        if self.frozen:
            return
        self.frozen = True
        if not self.waiting:  # otherwise the first gradient chooses, and then nothing changes
            self._finish()

    def _finish(self) -> None:
        """Remove by magnitude what must still go for the final number."""
        final = [edges.k for edges in self.edge_sets]
        if any(now > most for now, most in zip(self.present, final, strict=True)):
            self._change(magnitude, gradient, final, [0] * len(final))

    @override
    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Keep the dense gradients if they are needed, and set those of absent weights to zero."""
        if self.waiting:
            self._choose_by_sensitivity()
        if not self.frozen and (self.averages or self.times.changes(self.steps + 1)):
            self._dense = [own if own is None else own.clone() for own in self._gradients()]
        super().mask_gradients()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Masks, number of steps, averaged gradients, and whether the masks are fixed."""
        return {
            **super().state_dict(),
            "steps": self.steps,
            "present": self.present,
            "waiting": self.waiting,
            "frozen": self.frozen,
            "averages": self.averages,
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state, and set absent weights to zero.

        An average that the state lacks, as that of a run without growth by momentum, starts at 0.
        """
        self.steps, self.present = state["steps"], list(state["present"])
        self.waiting, self.frozen = state["waiting"], state["frozen"]
        for own, saved in zip(self.averages, state["averages"], strict=False):
            own.copy_(saved)
        super().load_state_dict(state)
        if self.due:  # perhaps only now, in a training that is shorter than the saved one
            self._finish()

    @override
    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        if step_was_skipped(self.optimizer):
            return
        self.steps += 1
        if self.averages:
            self._average(self._dense or self._gradients())
        # Also before a change: an optimizer such as Muon moves absent weights, which start at zero.
        self._mask()
        if self.frozen or self.waiting or not self.times.changes(self.steps):
            self._dense = []
            return
        wanted = self._wanted()
        moved = [
            self.times.moved(self.steps, min(before, after))
            for before, after in zip(self.present, wanted, strict=True)
        ]
        self._change(self.drop, self.grow, wanted, moved)
        self._dense = []

    def _average(self, dense: Sequence[Tensor | None]) -> None:
        """Make the gradients of a step part of their averages."""
        # A fused optimizer divides by the scale of a gradient scaler itself.
        scale = getattr(self.optimizer, "grad_scale", None)
        for average, own in zip(self.averages, dense, strict=True):
            if own is not None:
                true = own.to(average.dtype) if scale is None else own / scale
                average.lerp_(true, 1 - self.average_decay)

    def _wanted(self) -> list[int]:
        """How many weights of every set are present after this number of steps."""
        sets = zip(self.present, self.edge_sets, self.counts, strict=True)
        after = self.times.edges_after
        return [after(self.steps, present, edges.k, count) for present, edges, count in sets]

    def _gradients(self) -> list[Tensor | None]:
        """The gradients of all parameters, as dense tensors; `None` where there is none."""
        gradients = [weight.grad for weight in self.weights]
        return [own.to_dense() if own is not None and own.is_sparse else own for own in gradients]

    def _change(self, drop: Score, grow: Score, wanted: list[int], moved: list[int]) -> None:
        """Drop and grow weights of every set.

        Args:
            drop: score of present weights.
            grow: score of the others.
            wanted: for every set how many weights it has afterwards.
            moved: for every set how many of its weights are replaced.
        """
        gradients, masks, first = self._dense or self._gradients(), list[Tensor](), 0
        for number, edges in enumerate(self.edge_sets):
            own = slice(first, first + len(edges.weights))
            first = own.stop
            old = [mask for mask in self.masks[own] if mask is not None]
            seen = self._seen(number, gradients[own], [*self.averages[own]] or [None] * len(old))
            stay, usable, move = [drop(one) for one in seen], edges.usable, moved[number]
            idle = [gradient is None for gradient in gradients[own]]
            if any(idle) and move and wanted[number] == self.present[number]:
                stay, usable, others = _hold_idle(idle, old, stay, usable)
                move = self.times.moved(self.steps, others)
            elif any(idle):
                stay, move = [magnitude(one) for one in seen], 0
            kept = min(self.present[number], wanted[number]) - move
            grown = wanted[number] - kept
            come = [grow(one) for one in seen] if grown else []
            masks += change_masks(old, stay, come, kept, grown, usable, min(edges.least, kept))
        self.present = wanted
        self._replace(masks)

    def _seen(
        self, number: int, gradients: list[Tensor | None], averages: list[Tensor | None]
    ) -> list[Seen]:
        """What the rules see of each parameter of a set."""
        values = zip(self.edge_sets[number].weights, gradients, averages, strict=True)
        return [
            Seen(weight, _or_zeros(gradient, weight), self._noise(number, index), average)
            for index, (weight, gradient, average) in enumerate(values)
        ]

    def _replace(self, masks: list[Tensor]) -> None:
        """Put other masks in place, and clear the optimizer's state of what goes or comes."""
        for weight, old, new in zip(self.weights, self.masks, masks, strict=True):
            stays = new if old is None else old & new
            for name, value in states_of(self.optimizer, weight):
                if name == "step_size":  # of Rprop, whose steps grow from it and not from zero
                    continue
                if isinstance(value, Tensor) and value.dim() and value.shape == weight.shape:
                    value.masked_fill_(~stays, 0)
        self.keep(masks)

    def _noise(self, number: int, index: int) -> Callable[[], Tensor]:
        """Draws random numbers for one parameter of a set."""
        weight = self.edge_sets[number].weights[index]

        def draw() -> Tensor:
            name = self.names[number].encode()
            seed = derived_seed(self.seed, self.steps, index, *name)
            generator = torch.Generator().manual_seed(seed)
            # On the CPU, so that they are the same for all devices.
            numbers = torch.rand(weight.shape, generator=generator, device="cpu")
            return send(numbers, weight.device)

        return draw

    def _first_masks(self, first: First | None) -> list[Tensor]:
        """The first masks of all parameters; they leave out nothing where nothing is chosen yet."""
        masks = list[Tensor]()
        for number, edges in enumerate(self.edge_sets):
            if first is None or self.waiting or self.present[number] == self.counts[number]:
                pairs = zip(edges.weights, edges.usable, strict=True)
                ones = torch.ones_like
                masks += [ones(w, dtype=torch.bool) if m is None else m.clone() for w, m in pairs]
                continue
            score = random if first == "random" else magnitude
            masks += self._best(number, score, [torch.zeros_like(w) for w in edges.weights])
        return masks

    @torch.no_grad()
    def _best(self, number: int, score: Score, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Masks of the present number of weights of a set, those of highest score."""
        edges = self.edge_sets[number]
        scores = [
            score(Seen(weight, own, self._noise(number, index)))
            for index, (weight, own) in enumerate(zip(edges.weights, gradients, strict=True))
        ]
        return mask_largest(scores, self.present[number], edges.usable, edges.least)

    def _choose_by_sensitivity(self) -> None:
        """Choose the first masks by the first gradients that are there, and are numbers."""
        gradients = [own for own in self._gradients() if own is not None]
        if len(gradients) < len(self.weights):
            return
        device = gradients[0].device
        finite = [own.isfinite().all().to(device) for own in gradients]
        if not bool(torch.stack(finite).all()):  # asked once, as the host waits for the answer
            return  # a gradient scaler will skip this step
        # The number may have fallen while this rule was waiting.
        self.present = [edges.k for edges in self.edge_sets] if self.frozen else self._wanted()
        own, masks = iter(gradients), list[Tensor]()
        for number, edges in enumerate(self.edge_sets):
            masks += self._best(number, sensitivity, [next(own) for _ in edges.weights])
        self.waiting = False
        self._replace(masks)


def _hold_idle(
    idle: list[bool], masks: list[Tensor], scores: list[Tensor], usable: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None], int]:
    """Let the parameters of a set that had no gradient keep their masks, in a change of the others.

    Args:
        idle: which parameters had none.
        masks: the present masks.
        scores: by which present weights stay.
        usable: where weights can come.

    Returns:
        Scores and places in which idle parameters lose nothing and get nothing, and the number of
        present weights of the other parameters.
    """
    new_scores, places, present = list[Tensor](), list[Tensor | None](), 0
    for held, mask, score, can in zip(idle, masks, scores, usable, strict=True):
        new_scores.append(torch.full_like(score, torch.inf) if held else score)
        places.append(torch.zeros_like(mask) if held else can)
        present += 0 if held else int(mask.sum())
    return new_scores, places, present


def _or_zeros(gradient: Tensor | None, weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if gradient is None else gradient
