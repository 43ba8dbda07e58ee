"""Which options of MaskConnect's rule go together, said in one sentence."""

from collections.abc import Iterable
from typing import Literal

from wiring_lightning._checks import check_counts
from wiring_lightning.nn import Gate
from wiring_lightning.nn.checks import check_word

Update = Literal["normalize", "project"]
Explore = Literal["sample", "swap"]

PAPERS_RULE = {
    "update": "normalize",
    "center": False,
    "balance": False,
    "draw_every": 1,
    "explore": "sample",
    "anneal_steps": None,
}


def check_variant(
    *,
    lr: float,
    normalize: bool,
    low: float,
    high: float,
    update: str,
    center: bool,
    balance: bool,
    draw_every: int,
    explore: str,
    anneal_steps: int | None,
) -> None:
    """Raise `ValueError` if an option is out of range, or would do nothing beside the others."""
    check_word("update", update, Update)
    check_word("explore", explore, Explore)
    check_counts(draw_every=draw_every, most=10**9)
    if anneal_steps is not None:
        check_counts(anneal_steps=anneal_steps, most=10**12)
    if explore == "swap":
        _check_swap(lr, normalize, low, high, update, center, balance)
    elif anneal_steps is not None:
        raise ValueError(
            'anneal_steps is for explore="swap": leave it out, or choose that exploration.'
        )
    plain_bounds = normalize and (low, high) == (0.0, 1.0)
    if update == "project" and (balance or center or not plain_bounds):
        raise ValueError(
            'update="project" does without normalize=False, low, high, center and balance: its '
            "scores always sum to one, and what all candidates share has no effect."
        )
    if balance and not normalize:
        raise ValueError("balance=True writes scores back that sum to one: leave normalize on.")


def _check_swap(
    lr: float, normalize: bool, low: float, high: float, update: str, center: bool, balance: bool
) -> None:
    used = (normalize, low, high, update, center, balance)
    if used != (True, 0.0, 1.0, "normalize", False, False):
        raise ValueError(
            'explore="swap" holds its edges and has no scores to update: leave out normalize, low, '
            "high, update, center and balance."
        )
    if lr > 1:
        raise ValueError(
            f'with explore="swap", lr is the share of targets that swap: at most 1, got {lr}.'
        )


def check_gates(gates: Iterable[Gate], balance: bool, explore: str) -> None:
    """Raise `ValueError` if a gate cannot learn by a variant."""
    for gate in gates:
        if gate.mode == "real" and (balance or explore == "swap"):
            what = "balance=True" if balance else 'explore="swap"'
            raise ValueError(f'{what} needs gates that choose, and one has mode="real".')
        if balance and not gate.scores.is_meta and bool((gate.scores < 0).any()):
            raise ValueError(
                "balance=True needs gates in which every target may read every source, as in a "
                "ResNeXt; here a gate has slots that cannot be an edge."
            )
