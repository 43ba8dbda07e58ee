"""What a learned choice of edges rests on: how far apart the scores are, and whether by chance."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from wiring_lightning.callbacks.search_numbers import gate_numbers
from wiring_lightning.functional import score_entropy, topk_mask
from wiring_lightning.nn import find_bernoulli_gates, find_gates

# Draws of pure noise that scores are compared with.
_DRAWS = 4096
# Standard errors above noise from which on a choice counts as one: one in 700 by chance.
_SURE = 3.0
# The entropy from which on scores are alike, where nothing else can be said.
_ALIKE = 0.99

CHANCE = (
    "The choice of edges is close to chance: the scores of the chosen edges lie no further above "
    "the others than noise alone leaves them. Learn for more steps or at a larger rate, and "
    "compare with a random wiring before you report it."
)


def score_rows(module: nn.Module) -> list[tuple[str, str]]:
    """The row about the scores of learned gates, or the probabilities of a search; none without.

    Some rules leave scores that only mark the chosen edges: `explore="swap"`, and `balance` at the
    freeze. They do not tell how clear the choice was, and the row says that.
    """
    entropies = _entropies(module)
    if not entropies:
        unknown = "not known: the scores only mark the chosen edges"
        return [("entropy of scores", unknown)] if _learned(module) else []
    mean = sum(entropies) / len(entropies)
    return [("entropy of scores", f"{mean:.3f} (1: all candidates are alike)")]


def close_to_chance(module: nn.Module) -> bool:
    """Whether noise could have left scores like those that the edges were chosen by.

    In every row of n scores, k are chosen: the largest. They lie above the others in noise, too.
    How far, in standard deviations of the row, is compared with rows of independent normal numbers,
    over all rows together. Rows of two scores say nothing; of those, and of the probabilities of a
    search, the entropy is looked at. Of gates whose scores only mark the chosen edges nothing is
    known, so they are left out.

    Example:
        >>> from wiring_lightning.nn import Gate
        >>> gate = Gate(targets=8, candidates=6, fan_in=2)
        >>> close_to_chance(gate)  # all scores are equal
        True
        >>> gate.scores.data = torch.tensor([[0.4, 0.4, 0.05, 0.05, 0.05, 0.05]] * 8)
        >>> close_to_chance(gate)
        False
    """
    excess, variance = 0.0, 0.0
    for scores, k in _telling(module):
        for row in scores:
            values = row[row >= 0].double()
            expected, deviation = _of_noise(len(values), k)
            if deviation > 0:
                excess += float(_separation(values.unsqueeze(0), k)) - expected
                variance += deviation**2
    if variance > 0:
        return excess < _SURE * math.sqrt(variance)
    entropies = _entropies(module)
    return bool(entropies) and sum(entropies) / len(entropies) > _ALIKE


def _learned(module: nn.Module) -> list[tuple[Tensor, int]]:
    """`[targets, candidates]` scores and k of every learned gate, without rows of no choice."""
    found = []
    for gate in find_gates(module).values():
        if gate.mode == "learned":
            scores = gate.scores.detach().cpu().float()
            choice = (scores >= 0).sum(-1) > gate.fan_in
            if choice.any():
                found.append((scores[choice], gate.fan_in))
    return found


def _telling(module: nn.Module) -> list[tuple[Tensor, int]]:
    """As `_learned`, without gates in which all that was not chosen has a score of zero."""
    return [
        (scores, k) for scores, k in _learned(module) if scores[~topk_mask(scores, k)].gt(0).any()
    ]


def _entropies(module: nn.Module) -> list[float]:
    """The entropy of every row of scores, or of every search, 0 to 1."""
    rows = [float(row) for scores, _ in _telling(module) for row in score_entropy(scores)]
    searches = find_bernoulli_gates(module).values()
    return rows + [
        gate_numbers(gate)["entropy"] for gate in searches if bool(gate.learnable_edges.any())
    ]


def _separation(rows: Tensor, k: int) -> Tensor:
    """How far the mean of the k largest lies above that of the others, in standard deviations."""
    chosen = topk_mask(rows - rows.amin(-1, keepdim=True), k)
    above = (rows * chosen).sum(-1) / k - (rows * ~chosen).sum(-1) / (rows.shape[-1] - k)
    return above / rows.std(-1).clamp_min(1e-12)


@lru_cache(maxsize=256)
def _of_noise(n: int, k: int) -> tuple[float, float]:
    """Mean and standard deviation of the separation of n independent normal numbers."""
    if n < 3:
        return 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_DRAWS, n, dtype=torch.double, generator=generator, device="cpu")
    separation = _separation(noise, k)
    return float(separation.mean()), float(separation.std())
