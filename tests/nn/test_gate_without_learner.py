"""Gates in a plain loop whose scores an optimizer of weights moves, and that nothing learns."""

import warnings

import pytest
import torch
from torch.optim import SGD

from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD

EARLIER = torch.ones(5, 5, dtype=torch.bool).tril()


def moved(usable: torch.Tensor | None = None) -> Gate:
    """A gate after steps of an optimizer of weights; some scores of each target are below 0."""
    torch.manual_seed(0)
    gate = Gate(5, 5, fan_in=2, usable=usable)
    optimizer = SGD(gate.parameters(), lr=0.5, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        gate(torch.randn(8, 5, 3).abs()).sum(1).mean().backward()
        optimizer.step()
    return gate


@pytest.mark.parametrize("usable", [None, EARLIER])
def test_every_target_still_has_its_candidates_and_its_edges(usable: torch.Tensor | None) -> None:
    gate = moved(usable)
    slots = torch.ones_like(EARLIER) if usable is None else usable
    assert (gate.scores[slots] < 0).any()
    counts = slots.sum(1).clamp_max(2)
    assert torch.equal(gate.usable, slots)
    assert torch.equal(gate.choice().usable, slots)
    assert torch.equal(gate.edges_per_target, counts)
    assert torch.equal(gate.best.sum(1), counts)
    assert not (gate.best & ~slots).any()
    gate.freeze()
    assert torch.equal(gate.active.sum(1), counts)


def test_evaluation_says_that_the_wiring_was_not_learned() -> None:
    gate = moved()
    with pytest.warns(UserWarning, match=r"nothing learns the wiring.* callbacks\.MaskConnect"):
        gate.eval()
    frozen, learned = moved(), Gate(5, 5, fan_in=2)
    frozen.freeze()
    optimizer = GateSGD([learned], lr=0.5)
    for _ in range(3):
        learned(torch.randn(8, 5, 3).abs()).sum(1).mean().backward()
        optimizer.step()
    with warnings.catch_warnings(action="error"):
        gate.eval()  # it was in evaluation mode already
        frozen.eval()
        learned.eval()


def test_its_state_is_refused_in_these_words() -> None:
    with pytest.raises(RuntimeError, match="Gate has scores below 0, as if trained without MaskC"):
        Gate(5, 5, fan_in=2).load_state_dict(moved().state_dict())


@pytest.mark.parametrize("usable", [None, EARLIER])
def test_a_learner_takes_over_with_all_candidates(usable: torch.Tensor | None) -> None:
    gate = moved(usable)
    GateSGD([gate])
    assert torch.equal(gate.scores >= 0, gate.usable)
    torch.testing.assert_close(gate.scores.clamp_min(0).sum(1), torch.ones(5))
    Gate(5, 5, fan_in=2, usable=usable).load_state_dict(gate.state_dict())


@pytest.mark.parametrize("assign", [False, True])
def test_what_is_usable_is_where_the_scores_are(assign: bool) -> None:
    gate, state = Gate(5, 5, fan_in=2, usable=EARLIER), moved(EARLIER)
    GateSGD([state])
    gate.to("meta")
    assert gate.usable.is_meta
    if not assign:
        gate.to_empty(device="cpu")
    gate.load_state_dict(state.state_dict(), assign=assign)
    assert torch.equal(gate.usable, EARLIER)
    assert torch.equal(gate.best, state.best)
