"""Gradient descent on gate scores: update, clip, normalise, sample; and variants of it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.functional import (
    balance_scores,
    balanced_mask,
    normalize_scores,
    project_scores,
    sample_k_distinct,
    seed_of_step,
    swap_worst,
)
from wiring_lightning.functional.balanced import FLOOR
from wiring_lightning.functional.transfer import send
from wiring_lightning.nn import Gate
from wiring_lightning.optim._gate_optimizer import GateOptimizer
from wiring_lightning.optim._gate_rows import GateRows
from wiring_lightning.optim._gate_variants import (
    PAPERS_RULE,
    Explore,
    Update,
    check_gates,
    check_variant,
)


class GateSGD(GateOptimizer[Gate]):
    """The papers' rule for the scores of gates (MaskConnect and GateConnect, Algorithm 1).

    One step has three parts. The scores become `clip(score - lr * gradient, low, high)`, without
    momentum or weight decay. The scores of each target are scaled to sum to one. K candidates per
    target are sampled for the next forward pass. All gates are updated together.

    The other options are variants of this rule; what they do and when they pay is measured in
    docs/methods/mask_connect.md.

    The sample of step n depends on `seed` and n only. So a resumed run samples what the
    uninterrupted run would, and all ranks of a distributed job sample the same. The random numbers
    are drawn on the CPU, so they are the same on every device. Entries whose
    gradient is not finite are not updated. Keep scores in float32 (with mixed precision, if
    needed): in bfloat16 small steps are rounded away.

    Args:
        gates: the gates to learn; frozen ones are skipped.
        lr: learning rate. The papers use 0.2 for ResNeXt and 0.3 for ResNet.
        normalize: write the normalised scores back, as in Algorithm 1. Otherwise they are
            normalised for sampling only, and all scores of a target drift together.
        low: lower end of the interval that scores are clipped to.
        high: upper end of that interval.
        seed: seed of the draws.
        update: `"normalize"` is the papers' rule: clip and normalise. `"project"` takes the nearest
            scores to `score - lr * gradient` that are not negative and sum to one.
        center: subtract the mean over the candidates from the gradient of each target.
        balance: keep every source's scores at a sum of T / C nearly, beside the targets' sums of
            one (Sinkhorn). `freeze` of this optimizer then gives no source more than
            `ceil(T * K / C)` readers. Until then, evaluation uses the K best scores as ever.
        draw_every: a wiring is drawn every so many steps of a gate, and held in between.
        explore: `"sample"` draws. `"swap"` holds the edges and averages the gradients of
            `draw_every` steps. Then each target, with probability `lr`, exchanges its worst edge
            for its best candidate if that promises a lower loss (see `functional.swap_worst`).
            From the first step on, also with `lr` 0, the scores are equal for the present edges,
            and 0 for the others.
        anneal_steps: for `"swap"`: the number of steps of a gate after which nothing swaps any
            more. The probability falls like a cosine, as RigL's share of edges (alpha) does.
            Without it the probability stays.

    Raises:
        ValueError: if there is no gate, a number is out of range, an option would do nothing beside
            the others, or a gate cannot learn by the variant.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> gate = Gate(targets=1, candidates=4, fan_in=2)
        >>> optimizer = GateSGD([gate], lr=0.1)
        >>> for _ in range(20):  # candidate 2 lowers the loss, the others raise it
        ...     loss = gate(torch.tensor([[1.0, 1.0, -1.0, 1.0]]).unsqueeze(-1)).sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> gate.scores.argmax().item()
        2
    """

    def __init__(
        self,
        gates: Iterable[Gate],
        lr: float = 0.2,
        normalize: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
        update: Update = "normalize",
        center: bool = False,
        balance: bool = False,
        draw_every: int = 1,
        explore: Explore = "sample",
        anneal_steps: int | None = None,
    ) -> None:
        if not 0 <= low < high:
            raise ValueError(f"scores are clipped to 0 <= low < high, got [{low}, {high}].")
        settings = {
            "lr": lr, "normalize": normalize, "low": low, "high": high, "update": update,
            "center": center, "balance": balance, "draw_every": draw_every, "explore": explore,
            "anneal_steps": anneal_steps,
        }  # fmt: skip
        check_variant(**settings)  # type: ignore[arg-type]
        super().__init__(gates, "scores", {**settings, "seed": seed, "steps": 0})
        for gate in self.learning:
            _settle_scores(gate)
        check_gates(self.gates, balance, explore)
        self._rows: GateRows | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rows": None}

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a state from before there were variants has none
            group.update({**PAPERS_RULE, **group})

    @override
    @torch.no_grad()
    def freeze(self) -> None:
        """Fix the edges of every gate: the K best of each target, balanced if `balance` is set."""
        if self.group["balance"]:
            for gate in self.learning:
                chosen = balanced_mask(gate.scores, gate.fan_in)
                kept = torch.where(chosen, gate.scores.clamp_min(FLOOR), 0.0)
                gate.scores.copy_(normalize_scores(kept))
        super().freeze()

    @override
    def _update(self) -> None:
        gates = [gate for gate in self.learning if gate.scores.grad is not None]
        if not gates:
            return
        if self._rows is None or self._rows.gates != gates:
            self._rows = GateRows(gates)
        rows = self._rows
        gradient = rows.read([gate.scores.grad for gate in gates], padding=0.0)
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self.group["steps"] += 1
        due = self._count_steps(gates)
        if self.group["explore"] == "swap":
            self._hold_and_swap(rows, gradient, due)
            return
        scores = self._descend(rows, gradient)
        rows.write([gate.scores for gate in gates], scores)
        due = [turn or gate.mode == "real" for turn, gate in zip(due, gates, strict=True)]
        if any(due):
            active = [gate.active if turn else None for turn, gate in zip(due, gates, strict=True)]
            rows.write(active, self._draw(rows, scores))

    def _count_steps(self, gates: Sequence[Gate]) -> list[bool]:
        """Count a step of each gate, and tell for each whether its wiring may change now.

        Gates have counts of their own: with several optimizers of the user, they take turns.
        """
        every = self.group["draw_every"]
        if every == 1 and self.group["explore"] == "sample":
            return [True] * len(gates)
        due = []
        for gate in gates:
            state = self.state[gate.scores]
            state["steps"] = state.get("steps", 0) + 1
            due.append(state["steps"] % every == 0)
        return due

    def _descend(self, rows: GateRows, gradient: Tensor) -> Tensor:
        """The scores `[rows, longest row]` after a step along their gradient."""
        group = self.group
        scores = rows.read([gate.scores for gate in rows.gates])
        padding = scores < 0
        if group["center"]:
            count = (~padding).sum(-1, keepdim=True)
            gradient = gradient.masked_fill(padding, 0.0)
            gradient = gradient - gradient.sum(-1, keepdim=True) / count
        moved = scores - group["lr"] * gradient
        if group["update"] == "project":
            updated = project_scores(moved.masked_fill(padding, -torch.inf))
            return torch.where(padding, scores, updated)
        updated = torch.where(padding, scores, moved.clamp(group["low"], group["high"]))
        if group["balance"]:
            return rows.from_blocks(balance_scores(rows.to_blocks(updated)))
        return normalize_scores(updated) if group["normalize"] else updated

    def _draw(self, rows: GateRows, scores: Tensor) -> Tensor:
        """A mask of the sampled edges; a gate with real values uses all that have a score."""
        drawn = sample_k_distinct(scores, rows.fan_in, self._generator())
        if rows.any_real:
            drawn = torch.where(rows.real.unsqueeze(-1), scores > 0, drawn)
        return drawn

    def _generator(self) -> torch.Generator:
        """A generator on the CPU whose numbers depend on the seed and the step only."""
        generator = torch.Generator()
        generator.manual_seed(seed_of_step(self.group["seed"], self.group["steps"]))
        return generator

    def _hold_and_swap(self, rows: GateRows, gradient: Tensor, due: Sequence[bool]) -> None:
        """Sum up the gradients, and swap edges of the gates whose turn it is.

        Args:
            rows: the gates.
            gradient: `[rows, longest row]` of this step.
            due: for each gate whether its edges may change.
        """
        gates, states = rows.gates, [self.state[gate.scores] for gate in rows.gates]
        for gate, state in zip(gates, states, strict=True):
            if "gradient" not in state:  # the first step of this gate
                state["gradient"] = torch.zeros_like(gate.scores)
        sums = [state["gradient"] for state in states]
        total = rows.read(sums, padding=0.0) + gradient
        rows.write(sums, total)
        active = rows.read([gate.active for gate in gates], padding=0.0)
        scores = rows.read([gate.scores for gate in gates])
        if any(due):
            shares = rows.repeat(self._swap_probability(state["steps"]) for state in states)
            share = torch.tensor(shares, device="cpu")
            chosen = torch.rand(len(share), generator=self._generator(), device="cpu") < share
            active = swap_worst(active, total, scores >= 0, send(chosen, rows.device))
            rows.write(_only(due, [gate.active for gate in gates]), active)
            rows.write(_only(due, sums), torch.zeros_like(total))
        equal = active.to(scores.dtype) / active.sum(-1, keepdim=True)
        # Also with a rate of 0: evaluation and the freeze use the edges that are held.
        new = [turn or state["steps"] == 1 for turn, state in zip(due, states, strict=True)]
        rows.write(
            _only(new, [gate.scores for gate in gates]), torch.where(scores < 0, scores, equal)
        )

    def _swap_probability(self, steps: int) -> float:
        """The probability that a target swaps after so many steps of its gate."""
        lr, end = self.group["lr"], self.group["anneal_steps"]
        return lr if end is None else lr * (1 + math.cos(math.pi * min(steps / end, 1))) / 2


@torch.no_grad()
def _settle_scores(gate: Gate) -> None:
    """Make scores of an optimizer of weights, which may be below 0, those of candidates again."""
    usable, scores = gate.usable, gate.scores
    if not scores.is_meta and bool((usable & (scores < 0)).any()):
        scores.copy_(normalize_scores(torch.where(usable, scores.clamp_min(0), -1.0)))


def _only(wanted: Sequence[bool], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """The tensors that are wanted, and `None` in the place of the others."""
    return [tensor if turn else None for turn, tensor in zip(wanted, tensors, strict=True)]
