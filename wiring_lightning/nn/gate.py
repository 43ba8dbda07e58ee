"""The gate: K learned connections per target out of a set of candidates."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import (
    gated_sum,
    normalize_scores,
    sample_k_distinct,
    straight_through,
    topk_mask,
)
from wiring_lightning.nn.described import Described

GateMode = Literal["learned", "random", "real"]


class Gate(Described):
    """Connect every target to `fan_in` of its candidates (Equation 2 of GateConnect).

    In training mode a learned gate uses the wiring that was drawn last; in evaluation mode it uses
    the candidates with the highest scores, as dropout and batch norm switch by mode. The gate does
    not change by itself: `optim.GateSGD` updates the scores and draws, `callbacks.MaskConnect` does
    so inside a Lightning trainer. Scores, wiring and the frozen mark live in the `state_dict`.

    Shapes: sources `[batch, candidates, *features]` become inputs `[batch, targets, *features]`.

    Args:
        targets: number of blocks or branches that are fed.
        candidates: number of earlier blocks or branches to choose from.
        fan_in: K, the number of active connections per target, 1 to `candidates`. A target that may
            choose among fewer than K takes all of them.
        mode: `"learned"` (binary gates, drawn in proportion to the scores), `"random"` (a random
            wiring that stays; the papers' Fixed-Random) or `"real"` (all candidates, weighted with
            their scores; GateConnect's real-valued ablation. The weights of a target are K times
            its scores, so that its input has the scale of K binary gates; the gradient of a score
            then has that factor too).
        allowed: `[targets, candidates]` which candidates a target may choose, each target at least
            one; all if not given. The scores of the others are -1 for good.
        weighted: whether an active connection also has a positive weight, which starts at 1 and is
            learned by your optimizer like any other weight (the parametric aggregation that the
            papers leave to future work). It is the exponential of a parameter, so weight decay
            pulls it to 1.

    Raises:
        ValueError: if K is below 1 or larger than the number of candidates, or a target has none.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> gate = Gate(targets=3, candidates=4, fan_in=2)
        >>> gate.active.sum(1).tolist()
        [2, 2, 2]
        >>> gate(torch.randn(8, 4, 16)).shape
        torch.Size([8, 3, 16])
    """

    taught_by: ClassVar[str] = "MaskConnect"

    scores: nn.Parameter
    active: Tensor
    frozen: Tensor
    log_weights: nn.Parameter | None

    def __init__(
        self,
        targets: int,
        candidates: int,
        fan_in: int,
        mode: GateMode = "learned",
        allowed: Tensor | None = None,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= fan_in <= candidates:
            raise ValueError(
                f"fan_in (K) must be between 1 and the number of candidates, which is {candidates} "
                f"here, got {fan_in}."
            )
        if mode not in ("learned", "random", "real"):
            raise ValueError(f'mode must be "learned", "random" or "real", got "{mode}".')
        self.describe(fan_in=fan_in, mode=mode)
        self.fan_in = fan_in
        self.mode = mode
        scores = torch.ones(targets, candidates)
        if allowed is not None:
            if not allowed.is_meta and not allowed.any(-1).all():
                raise ValueError("every target needs at least one candidate that is allowed.")
            scores = scores.masked_fill(~allowed, -1.0)
        scores = normalize_scores(scores)
        drawn = sample_k_distinct(scores, fan_in)
        if mode == "random":
            scores = normalize_scores(torch.where(scores < 0, scores, drawn.float()))
        elif mode == "real":
            drawn = scores >= 0
        self.scores = nn.Parameter(scores)
        self.log_weights = nn.Parameter(torch.zeros(targets, candidates)) if weighted else None
        self.register_buffer("active", drawn)
        self.register_buffer("frozen", torch.tensor(mode == "random"))
        self.scores.requires_grad_(mode != "random")
        self.register_load_state_dict_post_hook(_follow_frozen_mark)

    @property
    def targets(self) -> int:
        """Number of blocks or branches that are fed."""
        return self.scores.shape[0]

    @property
    def candidates(self) -> int:
        """Number of earlier blocks or branches to choose from."""
        return self.scores.shape[1]

    @property
    def learnable(self) -> bool:
        """Whether the scores still learn: not random, and not frozen yet."""
        return self.scores.requires_grad

    @property
    def best(self) -> Tensor:
        """`[targets, candidates]` the edges of evaluation mode: top-K, or all positive ones."""
        if self.mode == "random":
            return self.active
        if self.mode == "real":
            positive = self.scores.detach() > 0
            # A target without any positive score still computes: it reads all sources, times zero.
            return positive | ~positive.any(-1, keepdim=True)
        return topk_mask(self.scores.detach(), self.fan_in)

    def weights(self) -> Tensor:
        """`[targets, candidates]` what each source is multiplied with in this forward pass."""
        return self._weigh(self.active if self.training else self.best)

    @torch.no_grad()
    def selection(self) -> "Selection":
        """The wiring of evaluation mode for good, as `compact()` keeps it."""
        return Selection(self._weigh(self.best), self.scores)

    def _weigh(self, edges: Tensor) -> Tensor:
        if self.mode == "real":
            gates = self.scores.clamp_min(0) * self.fan_in
        else:
            gates = straight_through(edges, self.scores)
        return gates if self.log_weights is None else gates * self.log_weights.exp()

    @torch.no_grad()
    def freeze(self) -> None:
        """Make the top-K wiring the wiring for good; the scores need no gradient any more."""
        self.active.copy_(self.best)
        self.frozen.fill_(True)
        self.scores.requires_grad_(False)
        self.scores.grad = None

    @override
    def flaw(self, values: Mapping[str, Tensor], alike: bool) -> str | None:
        if not {"scores", "active"} <= values.keys():
            return None
        scores, active = values["scores"].cpu(), values["active"].cpu().bool()
        usable = self.scores.detach().cpu() >= 0
        if not torch.equal(scores >= 0, usable):
            return "has scores below 0, or for other candidates"
        if (active & ~usable).any():
            return "is connected to what is no candidate"
        if self.mode == "real":
            return "does not use all candidates" if ((scores > 0) & ~active).any() else None
        counts, right = active.sum(1), usable.sum(1).clamp_max(self.fan_in)
        if (wrong := counts != right).any():
            given, own = int(counts[wrong][0]), int(right[wrong][0])
            return f"has a target with {given} connections there and {own} here"
        return None

    @override
    def forward(self, sources: Tensor) -> Tensor:
        """Sum the active sources of every target."""
        return gated_sum(self.weights(), sources)

    @override
    def extra_repr(self) -> str:
        weighted = "" if self.log_weights is None else ", weighted"
        return (
            f"{self.targets} x {self.candidates}, fan_in={self.fan_in}, mode={self.mode}{weighted}"
        )


class Selection(nn.Module):
    """A gate whose wiring is given for good: what `compact()` leaves of a `Gate`.

    Args:
        weights: `[targets, sources]` the fixed weight of every connection.
        score: `[targets, sources]` the scores that the connections had when they were frozen.
    """

    matrix: Tensor
    score: Tensor

    def __init__(self, weights: Tensor, score: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", weights.detach().clone())
        self.register_buffer("score", score.detach().clone())
        self.binary = bool(((weights == 0) | (weights == 1)).all())

    def keep(self, targets: Sequence[int], sources: Sequence[int]) -> "Selection":
        """The same selection among some of the targets and some of the sources."""
        return Selection(
            self.matrix[list(targets)][:, list(sources)],
            self.score[list(targets)][:, list(sources)],
        )

    @override
    def forward(self, sources: Tensor) -> Tensor:
        """`[batch, sources, *features]` -> `[batch, targets, *features]`."""
        return gated_sum(self.weights(), sources)

    def weights(self) -> Tensor:
        """`[targets, sources]` what each source is multiplied with."""
        return self.matrix

    @override
    def extra_repr(self) -> str:
        return f"{self.matrix.shape[0]} x {self.matrix.shape[1]}"


def find_gates(module: nn.Module) -> dict[str, Gate]:
    """All gates inside a module that can learn or have learned, by their qualified name."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, Gate) and child.mode != "random"
    }


def _follow_frozen_mark(gate: nn.Module, _incompatible: Any) -> None:
    """A gate that was frozen when it was saved needs no gradient after loading either."""
    assert isinstance(gate, Gate)
    if gate.mode == "random":
        gate.frozen.fill_(True)
    gate.scores.requires_grad_(not bool(gate.frozen))
