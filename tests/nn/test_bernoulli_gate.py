"""The stochastic gate: modes, seeds, what it saves, and what it says about its last draw."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from wiring_lightning.nn import BernoulliGate, find_bernoulli_gates
from wiring_lightning.optim import Reinforce

SOURCE, TARGET = [0, 0, 1, 1, 2], [1, 2, 2, 3, 3]


def make_gate(**kwargs) -> BernoulliGate:
    gate = BernoulliGate(4, SOURCE, TARGET, **kwargs)
    gate.seed(0)
    return gate


def set_logits(gate: BernoulliGate, values: list[float]) -> None:
    with torch.no_grad():
        gate.logits.copy_(torch.tensor(values))


def test_starts_at_the_papers_probability():
    torch.testing.assert_close(make_gate().probabilities, torch.full((5,), 0.952574))


def test_training_draws_anew_and_remembers_the_draw():
    gate = make_gate(initial=0.0)
    first, second = gate.draw(64), gate.draw(64)
    assert not torch.equal(first, second)
    assert torch.equal(gate.drawn, second)
    connected = torch.stack([torch.ones(64).bool(), second[:, 0], second[:, 1] | second[:, 2]], 1)
    assert torch.equal(gate.asked, connected[:, SOURCE])
    assert not (second & ~gate.asked).any()


def test_a_seed_repeats_draws_whatever_else_is_drawn():
    gate, other = make_gate(initial=0.0), make_gate(initial=0.0)
    gate.seed(7)
    expected = gate.draw(32), gate.draw(32)
    other.seed(7)
    torch.rand(5)
    assert all(torch.equal(other.draw(32), drawn) for drawn in expected)
    other.seed(8)
    assert not torch.equal(other.draw(32), expected[0])


def test_a_copy_draws_on_its_own():
    gate = make_gate(initial=0.0)
    twin = deepcopy(gate)
    assert torch.equal(twin.draw(16), gate.draw(16))


def test_warm_up_takes_all_edges_and_asks_nothing():
    gate = make_gate(initial=-9.0)
    gate.sampling = False
    assert gate.draw(3).all()
    assert gate.drawn.all()
    assert not gate.asked.any()


def test_evaluation_takes_the_best_edges_and_leaves_the_last_draw():
    gate = make_gate(initial=0.0)
    drawn = gate.draw(8).clone()
    set_logits(gate, [-1.0, 1.0, 1.0, 1.0, 1.0])
    best = torch.tensor([False, True, False, False, True])
    assert torch.equal(gate.best, best)
    assert torch.equal(gate.eval().draw(2), best.expand(2, -1))
    assert torch.equal(gate.drawn, drawn)


def test_half_is_not_enough():
    assert not make_gate(initial=0.0).best.any()


def test_frozen_is_the_best_architecture_also_in_training_mode():
    gate = make_gate()
    set_logits(gate, [0.1, 0.1, -0.1, 0.1, -0.1])
    best = gate.best
    gate.freeze()
    assert not gate.learnable
    for _ in range(3):
        assert torch.equal(gate.draw(20), best.expand(20, -1))
    assert not gate.asked.any()
    gate.sampling = False
    assert torch.equal(gate.draw(1)[0], best)


def test_state_dict_is_the_whole_gate():
    gate = make_gate()
    set_logits(gate, [1.0, 2.0, -3.0, 4.0, 5.0])
    gate.freeze()
    state = gate.state_dict()
    assert set(state) == {"logits", "frozen"}
    other = make_gate()
    other.load_state_dict(state)
    assert not other.learnable
    assert torch.equal(other.draw(2), gate.draw(2))
    other.load_state_dict(make_gate().state_dict())
    assert other.learnable


def test_given_edges_are_always_there_if_their_source_is():
    gate = make_gate(learnable=[True, True, False, False, True], initial=-1.0)
    drawn = gate.draw(400)
    assert torch.equal(drawn[:, 2], drawn[:, 0])
    assert torch.equal(drawn[:, 3], drawn[:, 0])
    assert not gate.asked[:, 2:4].any()
    assert gate.probabilities[2:4].eq(1).all()


def test_a_gate_without_a_choice_does_not_learn():
    gate = make_gate(learnable=[False] * 5, initial=-5.0)
    assert not gate.learnable
    assert gate.draw(3).all()
    assert find_bernoulli_gates(nn.ModuleDict({"given": gate})) == {}


def test_gates_are_found_by_name():
    gate = make_gate()
    gate.freeze()
    assert find_bernoulli_gates(nn.ModuleDict({"a": nn.ModuleDict({"b": gate})})) == {"a.b": gate}


def test_half_precision_draws_like_single_precision():
    gate, half = make_gate(initial=0.5), make_gate(initial=0.5).to(torch.bfloat16)
    assert torch.equal(gate.draw(100), half.draw(100))


def test_learnable_has_an_entry_per_edge():
    with pytest.raises(ValueError, match="each of the 5 edges, got 2"):
        make_gate(learnable=[True, False])


def test_logits_without_a_gradient_are_drawn_from_all_the_same_and_stay():
    gate, twin = make_gate(initial=0.0), make_gate(initial=0.0)
    gate.requires_grad_(False)
    optimizer = Reinforce([gate], lr=1.0)
    for _ in range(3):
        drawn = gate.draw(32)
        assert torch.equal(drawn, twin.draw(32))
        assert not drawn.all()
        optimizer.observe(drawn.float().sum(1))
        optimizer.step()
    assert gate.learnable
    assert not optimizer.frozen
    assert gate.logits.eq(0).all()


def test_a_frozen_gate_draws_its_best_edges_whatever_is_switched_on():
    gate = make_gate()
    set_logits(gate, [0.1, 0.1, -0.1, 0.1, -0.1])
    best = gate.best
    gate.freeze()
    gate.requires_grad_(True)
    assert torch.equal(gate.draw(20), best.expand(20, -1))
