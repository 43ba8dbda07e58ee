"""The gate: K learned connections per target."""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning._names import renamed_argument
from wiring_lightning.functional import (
    gated_sum,
    normalize_scores,
    rectified_gated_sum,
    sample_covering,
    sample_k_distinct,
    straight_through,
    topk_mask,
)
from wiring_lightning.nn.checks import check_fan_in, check_word
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.learnable import find_modules
from wiring_lightning.nn.selection import Selection
from wiring_lightning.nn.structured import Structured
from wiring_lightning.wiring import Choice

GateMode = Literal["learned", "random", "covered", "real"]

_NO_LEARNER = (
    "The scores of a gate are below 0, because an optimizer of weights moves them and nothing "
    "learns the wiring: training uses the first random draw, and evaluation other edges. Add "
    "callbacks.MaskConnect to the trainer or use optim.GateSGD, or build the network with "
    'wiring="random".'
)


class Gate(Structured, Described):
    """Connect every target to `fan_in` of its candidates (Equation 2 of GateConnect).

    In training mode a learned gate uses the wiring that was drawn last. In evaluation mode it uses
    the candidates with the highest scores. The gate does not change itself: `optim.GateSGD` updates
    the scores and draws, and `callbacks.MaskConnect` does so inside a Lightning trainer. Scores,
    wiring and the frozen mark are in the `state_dict`.

    Shapes: sources `[batch, candidates, *features]` become inputs `[batch, targets, *features]`.

    Args:
        targets: number of blocks or branches with a learned input.
        candidates: number of earlier blocks or branches to choose from.
        fan_in: K, the number of active connections per target, 1 to `candidates`. A target with
            fewer than K usable candidates takes all of them.
        mode: `"learned"` (binary gates, drawn in proportion to the scores), `"random"` (a random
            wiring that stays; the papers' Fixed-Random), `"covered"` (the same, drawn among the
            wirings in which every candidate is read) or `"real"` (all candidates, weighted by K
            times their scores; GateConnect's real-valued ablation).
        usable: `[targets, candidates]` which slots can be an edge, at least one for each target;
            all if not given. The scores of the others stay at -1.
        weighted: whether an active connection also has a positive weight, which starts at 1 and is
            learned by your optimizer (future work of the papers). It is the exponential of a
            parameter, so weight decay pulls it to 1.

    Raises:
        ValueError: if K is below 1 or larger than the number of candidates, or a target has none,
            or no wiring reads every candidate and `mode` is `"covered"`.

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

    @renamed_argument("allowed", "usable", gone_in="0.2.0")
    def __init__(
        self,
        targets: int,
        candidates: int,
        fan_in: int,
        mode: GateMode = "learned",
        usable: Tensor | None = None,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        meaning = f"the number of candidates, which is {candidates} here"
        check_fan_in(fan_in, candidates, meaning)
        check_word("mode", mode, GateMode)
        self.describe(fan_in=fan_in, mode=mode)
        self.fan_in = fan_in
        self.mode = mode
        scores = torch.ones(targets, candidates)
        known = torch.ones(targets, candidates, dtype=torch.bool, device="cpu")
        if usable is not None and not usable.is_meta:
            known &= usable.cpu()
        if not known.any(-1).all():
            raise ValueError("every target needs at least one candidate that is usable.")
        # Whatever an optimizer makes of the scores. A mask on `meta` is known once they are loaded.
        self.keep("_usable", None if usable is not None and usable.is_meta else known)
        scores = normalize_scores(scores.masked_fill(~known.to(scores.device), -1.0))
        if mode == "covered":
            drawn = sample_covering(scores >= 0, fan_in)
        else:
            drawn = sample_k_distinct(scores, fan_in)
        if self.fixed:
            scores = normalize_scores(torch.where(scores < 0, scores, drawn.float()))
        elif mode == "real":
            drawn = scores >= 0
        self.scores = nn.Parameter(scores)
        self.log_weights = nn.Parameter(torch.zeros(targets, candidates)) if weighted else None
        self.register_buffer("active", drawn)
        self.register_buffer("frozen", torch.tensor(self.fixed))
        self._is_frozen = self.fixed  # as `frozen`, but read without waiting for the device
        self.scores.requires_grad_(not self.fixed)
        self.register_load_state_dict_post_hook(_follow_frozen_mark)

    @property
    def targets(self) -> int:
        """Number of targets."""
        return self.scores.shape[0]

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return self.scores.shape[1]

    @property
    def edges_per_target(self) -> Tensor:
        """`[targets]` number of active edges: K, or the number of usable candidates if smaller."""
        return self.usable.sum(1).clamp_max(self.fan_in)

    @property
    def usable(self) -> Tensor:
        """`[targets, candidates]` which slots can be an edge."""
        known: Tensor | None = getattr(self, "_usable", None)  # none if pickled earlier, or `meta`
        return self.scores.detach() >= 0 if known is None else known

    @property
    def fixed(self) -> bool:
        """Whether the wiring is the one drawn at first: nothing about it ever learns."""
        return self.mode in ("random", "covered")

    @property
    def learnable(self) -> bool:
        """Whether the wiring can still change: neither random nor frozen."""
        return not self._is_frozen

    @property
    def best(self) -> Tensor:
        """`[targets, candidates]` the edges of evaluation mode: top-K, or all positive scores."""
        if self._is_frozen:  # whatever becomes of the scores, such as rounding to bfloat16
            return self.active
        if self.mode == "real":
            positive = self.scores.detach() > 0
            # A target without a positive score reads all sources, multiplied by zero.
            return positive | ~positive.any(-1, keepdim=True)
        return topk_mask(self.scores.detach(), self.fan_in, self.usable)

    @property
    def binary(self) -> bool:
        """Whether every weight is 0 or 1."""
        return self.mode != "real" and self.log_weights is None

    @torch.no_grad()
    def choice(self) -> Choice:
        """The edges of evaluation mode, for a `WiringBuilder`."""
        usable = self.usable
        learnable = usable.sum(-1, keepdim=True) > self.fan_in  # otherwise all are taken
        if self.mode != "learned":
            learnable = torch.full_like(learnable, self.mode == "real")
        return Choice(self.best, self.scores, learnable, usable)

    def weights(self) -> Tensor:
        """`[targets, candidates]` the factor of each source in this forward pass."""
        return self._weigh(self.active if self.training else self.best)

    @torch.no_grad()
    def selection(self) -> Selection:
        """The wiring of evaluation mode as a fixed layer, for `compact()`."""
        return Selection(self._weigh(self.best), self.scores)

    def _weigh(self, edges: Tensor) -> Tensor:
        """`[targets, candidates]` the factor of each source if these are the edges."""
        scores = self.scores.detach() if self._is_frozen else self.scores
        if self.mode == "real":
            gates = scores.clamp_min(0) * self.fan_in
        else:
            gates = straight_through(edges, scores)
        return gates if self.log_weights is None else gates * self.log_weights.exp()

    @torch.no_grad()
    def freeze(self) -> None:
        """Use the top-K wiring in training mode too; the scores stop learning."""
        self.active.copy_(self.best)
        self.frozen.fill_(True)
        self._is_frozen = True
        self.scores.requires_grad_(False)
        self.scores.grad = None

    @torch.no_grad()
    def follow_frozen_mark(self) -> None:
        """Be frozen or not, as the tensor `frozen` says by now.

        Call it after you wrote into that tensor; loading a `state_dict` does it by itself.
        """
        if self.fixed:
            self.frozen.fill_(True)
        self._is_frozen = bool(self.frozen)

    @override
    def flaw(self, values: Mapping[str, Tensor], alike: bool | None) -> str | None:
        if not {"scores", "active"} <= values.keys():
            return None
        scores, active = values["scores"].cpu(), values["active"].cpu().bool()
        # Unknown if a mask was on `meta`, or the gate was pickled earlier.
        usable = self._kept.get("_usable", scores >= 0)
        if not torch.equal(scores >= 0, usable):
            return "has scores below 0, as if trained without MaskConnect, or for other candidates"
        if (active & ~usable).any():
            return "is connected to what is no candidate"
        if self.mode == "real":
            return "does not use all candidates" if ((scores > 0) & ~active).any() else None
        counts, right = active.sum(1), usable.sum(1).clamp_max(self.fan_in)
        if (wrong := counts != right).any():
            given, own = int(counts[wrong][0]), int(right[wrong][0])
            return f"has a target with {given} connections there and {own} here"
        if self.mode == "covered" and (usable & ~active.any(0)).any():
            return "has a candidate there that no target reads"
        return None

    @override
    def train(self, mode: bool = True) -> "Gate":
        if self.training and not mode:
            self._warn_of_no_learner()
        super().train(mode)
        return self

    def _warn_of_no_learner(self) -> None:
        """Warn if scores have become what only an optimizer of weights makes of them."""
        if self.learnable and self.scores.grad is not None:  # otherwise do not wait for a device
            below = self.usable & (self.scores < 0)
            if below.any():
                warnings.warn(_NO_LEARNER, UserWarning, stacklevel=2)

    @override
    def forward(self, sources: Tensor) -> Tensor:
        """Sum the active sources of every target."""
        return gated_sum(self.weights(), sources)

    def rectified(self, sources: Tensor) -> Tensor:
        """The ReLU of the sums, `[batch, candidates, *features]` -> `[batch, targets, ...]`."""
        summed = rectified_gated_sum(self.weights(), sources.flatten(2))
        return summed.unflatten(2, sources.shape[2:])

    @override
    def extra_repr(self) -> str:
        weighted = "" if self.log_weights is None else ", weighted"
        return (
            f"{self.targets} x {self.candidates}, fan_in={self.fan_in}, mode={self.mode}{weighted}"
        )


def find_gates(module: nn.Module) -> dict[str, Gate]:
    """All gates inside a module with scores that are or were learned, by qualified name.

    Example:
        >>> list(find_gates(nn.Sequential(Gate(2, 2, 1), Gate(2, 2, 1, mode="random"))))
        ['0']
    """
    return find_modules(module, Gate, lambda gate: not gate.fixed)


def _follow_frozen_mark(gate: nn.Module, _incompatible: Any) -> None:
    """After loading: freeze or thaw, if the saved gate was the other."""
    assert isinstance(gate, Gate)
    before = gate._is_frozen
    if "_usable" not in gate._kept and not gate.usable.is_meta:
        gate.keep("_usable", gate.usable)
    gate.follow_frozen_mark()
    if gate._is_frozen != before:
        gate.scores.requires_grad_(before)
