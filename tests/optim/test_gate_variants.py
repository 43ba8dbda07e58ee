"""The variants of MaskConnect's rule: each against its formula, and resumed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optim.gate_runs import run, uninterrupted_and_resumed
from wiring_lightning.functional import balance_scores, project_scores
from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD

SHAPES = [(4, 4, 2), (6, 3, 1), (4, 7, 3)]  # targets, candidates, K
VARIANTS: dict[str, dict[str, Any]] = {
    "project": {"update": "project"},
    "center": {"center": True},
    "center, not written back": {"center": True, "normalize": False},
    "balance": {"balance": True, "center": True},
    "held": {"draw_every": 3},
    "projected and held": {"update": "project", "draw_every": 4},
    "swap": {"explore": "swap", "draw_every": 2, "lr": 0.9},
    "annealed swap": {"explore": "swap", "draw_every": 2, "lr": 1.0, "anneal_steps": 30},
}


def make(shapes: list[tuple[int, int, int]] = SHAPES, **usable: Tensor) -> list[Gate]:
    return [Gate(*shape, **usable).double() for shape in shapes]


def set_gradients(gates: list[Gate]) -> list[Tensor]:
    for gate in gates:
        gate.scores.grad = torch.randn_like(gate.scores)
    return [gate.scores.grad.clone() for gate in gates if gate.scores.grad is not None]


def wirings(gates: list[Gate]) -> list[Tensor]:
    return [gate.active.clone() for gate in gates]


def scores_of(gates: list[Gate]) -> list[Tensor]:
    return [gate.scores.detach().clone() for gate in gates]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def test_a_projected_step_is_the_projection_of_the_plain_step() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.3, update="project")
    for _ in range(4):
        before, gradients = scores_of(gates), set_gradients(gates)
        optimizer.step()
        for gate, scores, gradient in zip(gates, before, gradients, strict=True):
            torch.testing.assert_close(
                gate.scores.detach(), project_scores(scores - 0.3 * gradient)
            )


def test_what_all_candidates_share_has_no_effect() -> None:
    """Neither on projected nor on centred scores, until the latter are clipped."""
    for options in ({"update": "project"}, {"center": True}):
        pair = [make(), make()]
        for gates, shared in zip(pair, (0.0, 5.0), strict=True):
            torch.manual_seed(3)
            set_gradients(gates)
            for gate in gates:
                gate.scores.grad += shared
            GateSGD(gates, lr=0.02, **options).step()
        for one, other in zip(*pair, strict=True):
            torch.testing.assert_close(one.scores, other.scores)


def test_a_centred_step_is_algorithm_1_with_the_gradient_minus_its_mean() -> None:
    gates = make()
    before, gradients = scores_of(gates), set_gradients(gates)
    GateSGD(gates, lr=0.3, center=True).step()
    for gate, scores, gradient in zip(gates, before, gradients, strict=True):
        moved = (scores - 0.3 * (gradient - gradient.mean(1, keepdim=True))).clamp(0, 1)
        torch.testing.assert_close(gate.scores.detach(), moved / moved.sum(1, keepdim=True))


@pytest.mark.parametrize("options", [{"update": "project"}, {"center": True}])
def test_slots_that_cannot_be_an_edge_stay_out(options: dict[str, Any]) -> None:
    """Each row is updated as a gate with only its own candidates would be."""
    usable = torch.ones(4, 4, dtype=torch.bool).tril()
    (gate,) = make([(4, 4, 1)], usable=usable)
    (gradient,) = set_gradients([gate])
    GateSGD([gate], lr=0.5, **options).step()
    assert (gate.scores[~usable] == -1).all()
    for row in range(4):
        alone = Gate(1, row + 1, 1).double()
        alone.scores.grad = gradient[row : row + 1, : row + 1].clone()
        GateSGD([alone], lr=0.5, **options).step()
        torch.testing.assert_close(gate.scores[row, : row + 1], alone.scores[0])


def test_balanced_scores_are_those_of_each_gate_alone() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.1, balance=True)
    for _ in range(3):
        before, gradients = scores_of(gates), set_gradients(gates)
        optimizer.step()
        for gate, scores, gradient in zip(gates, before, gradients, strict=True):
            expected = balance_scores((scores - 0.1 * gradient).clamp(0, 1))
            torch.testing.assert_close(gate.scores.detach(), expected)


def test_a_balanced_freeze_gives_no_source_too_many_readers() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.1, balance=True)
    for gate in gates:  # all targets like the first source best
        gate.scores.grad = torch.zeros_like(gate.scores)
        gate.scores.grad[:, 0] = -3
    optimizer.step()
    optimizer.freeze()
    for gate in gates:
        limit = math.ceil(gate.targets * gate.fan_in / gate.candidates)
        assert torch.equal(gate.active, gate.best)
        assert (gate.best.sum(1) == gate.fan_in).all()
        assert gate.best.sum(0).max() <= limit
        torch.testing.assert_close(gate.scores.sum(1), torch.ones(gate.targets).double())


@pytest.mark.parametrize("update", ["normalize", "project"])
def test_a_wiring_is_held_and_the_scores_go_on(update: Any) -> None:
    """Scores move in every step; what is drawn is what drawing in every step would draw then."""
    held, drawn = make(), make()
    for one, other in zip(held, drawn, strict=True):
        other.load_state_dict(one.state_dict())
    slow = GateSGD(held, update=update, draw_every=3, seed=5)
    quick = GateSGD(drawn, update=update, seed=5)
    last = wirings(held)
    for step in range(1, 10):
        for gate, gradient in zip(drawn, set_gradients(held), strict=True):
            gate.scores.grad = gradient
        slow.step()
        quick.step()
        assert same(scores_of(held), scores_of(drawn))
        last = wirings(drawn) if step % 3 == 0 else last
        assert same(wirings(held), last)


def test_gates_that_take_turns_are_all_drawn() -> None:
    """As with two optimizers of the user: each gate has a count of its own."""
    first, second = gates = make([(6, 9, 1), (6, 9, 1)])
    optimizer = GateSGD(gates, draw_every=2)
    for _ in range(2):
        for gate in gates:
            set_gradients([gate])
            before = wirings(gates)
            optimizer.step()
            optimizer.zero_grad()
            after = wirings(gates)
    assert not torch.equal(before[1], after[1])
    assert optimizer.state[first.scores]["steps"] == optimizer.state[second.scores]["steps"] == 2


def test_swaps_follow_the_mean_gradient_of_the_held_wiring() -> None:
    """With a share of one all targets swap, and only where the mean gradient promises it."""
    gates = make()
    optimizer = GateSGD(gates, lr=1.0, explore="swap", draw_every=3)
    for _ in range(3):
        start, sums = wirings(gates), [torch.zeros_like(gate.scores) for gate in gates]
        for step in range(3):
            assert same(wirings(gates), start), step
            for total, gradient in zip(sums, set_gradients(gates), strict=True):
                total += gradient
            optimizer.step()
        for gate, active, total in zip(gates, start, sums, strict=True):
            for row in range(gate.targets):
                inside, outside = active[row], ~active[row]
                worst = float(total[row][inside].max())
                best = float(total[row][outside].min())
                now = {float(value) for value in total[row][gate.active[row]]}
                then = {float(value) for value in total[row][inside]}
                assert now == (then - {worst} | {best} if best < worst else then)
            torch.testing.assert_close(gate.best, gate.active)
            torch.testing.assert_close(gate.scores.detach(), gate.active.double() / gate.fan_in)


def swaps(lr: float, anneal_steps: int | None, steps: int) -> Tensor:
    """The share of 2,000 targets that swap in every step; all would like to."""
    (gate,) = make([(2000, 2, 1)])
    optimizer = GateSGD([gate], lr=lr, explore="swap", anneal_steps=anneal_steps)
    shares = []
    for _ in range(steps):
        before = gate.active.clone()
        gate.scores.grad = torch.where(before, 1.0, -1.0).double()
        optimizer.step()
        shares.append((gate.active != before).any(1).double().mean())
    return torch.stack(shares)


def test_the_share_of_swaps_is_lr_and_falls_like_a_cosine() -> None:
    steps = torch.arange(1, 13)
    expected = 0.6 * (1 + torch.cos(math.pi * (steps / 10).clamp_max(1))) / 2
    found = swaps(0.6, 10, 12)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=0.06)  # 5 deviations
    assert (found[9:] == 0).all()
    torch.testing.assert_close(
        swaps(0.6, None, 5), torch.full((5,), 0.6).double(), rtol=0, atol=0.06
    )
    assert (swaps(0.0, None, 3) == 0).all()


@pytest.mark.parametrize("draw_every", [1, 3])
@pytest.mark.parametrize("lr", [0.0, 0.5])
def test_evaluation_and_the_freeze_use_the_edges_that_are_held(lr: float, draw_every: int) -> None:
    usable = torch.ones(6, 6, dtype=torch.bool).tril()
    gates = [*make(), *make([(6, 6, 2)], usable=usable)]
    start = wirings(gates)
    optimizer = GateSGD(gates, lr=lr, explore="swap", draw_every=draw_every, anneal_steps=100)
    for _ in range(4):
        set_gradients(gates)
        optimizer.step()
        assert all(torch.equal(gate.best, gate.active) for gate in gates)
    held = wirings(gates)
    assert same(held, start) == (lr == 0)
    optimizer.freeze()
    assert same(wirings(gates), held)


def test_swaps_leave_out_slots_that_cannot_be_an_edge() -> None:
    usable = torch.ones(6, 6, dtype=torch.bool).tril()
    (gate,) = make([(6, 6, 2)], usable=usable)
    optimizer = GateSGD([gate], lr=1.0, explore="swap")
    start = gate.active.clone()
    for _ in range(10):
        set_gradients([gate])
        optimizer.step()
        assert not gate.active[~usable].any()
        assert torch.equal(gate.active.sum(1), gate.edges_per_target)
        assert (gate.scores[~usable] == -1).all()
    assert not torch.equal(gate.active, start)


def test_gradients_that_are_not_finite_do_not_decide_a_swap() -> None:
    (gate,) = make([(5, 4, 2)])
    start = gate.active.clone()
    gate.scores.grad = torch.full_like(gate.scores, torch.nan)
    GateSGD([gate], lr=1.0, explore="swap").step()
    assert torch.equal(gate.active, start)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("first", [7, 8])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one(
    options: dict[str, Any], first: int
) -> None:
    expected, actual = uninterrupted_and_resumed(make, {"seed": 11, **options}, first, 9)
    assert same(actual, expected)
    step = 2 * len(SHAPES)
    assert not same(expected[:step], expected[-step:])


def test_a_state_from_before_there_were_variants_has_the_papers_rule() -> None:
    gates = make()
    state = GateSGD(gates, seed=4).state_dict()
    old = ("lr", "normalize", "low", "high", "seed", "steps", "params")
    state["param_groups"] = [{name: group[name] for name in old} for group in state["param_groups"]]
    optimizer = GateSGD(gates, update="project", draw_every=7)
    optimizer.load_state_dict(state)
    assert optimizer.group["update"] == "normalize"
    before, gradients = scores_of(gates), set_gradients(gates)
    optimizer.step()
    moved = (before[0] - 0.2 * gradients[0]).clamp(0, 1)
    torch.testing.assert_close(gates[0].scores.detach(), moved / moved.sum(1, keepdim=True))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_places_in_memory_stay(options: dict[str, Any]) -> None:
    """Compiled graphs read them."""
    gates = make()
    tensors = [tensor for gate in gates for tensor in (gate.scores, gate.active)]
    places = [tensor.data_ptr() for tensor in tensors]
    optimizer = GateSGD(gates, **options)
    run(gates, optimizer, 4)
    optimizer.freeze()
    assert [t.data_ptr() for gate in gates for t in (gate.scores, gate.active)] == places


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"update": "clip"}, 'update must be "normalize" or "project"'),
        ({"explore": "wander"}, 'explore must be "sample" or "swap"'),
        ({"draw_every": 0}, "draw_every must be at least 1, got 0"),
        ({"draw_every": 1.5}, "draw_every must be a whole number"),
        ({"explore": "swap", "anneal_steps": 0}, "anneal_steps must be at least 1"),
        ({"anneal_steps": 10}, 'anneal_steps is for explore="swap"'),
        ({"update": "project", "normalize": False}, 'update="project" does without'),
        ({"update": "project", "center": True}, 'update="project" does without'),
        ({"update": "project", "balance": True}, 'update="project" does without'),
        ({"update": "project", "low": 0.1}, 'update="project" does without'),
        ({"balance": True, "normalize": False}, "balance=True writes scores back"),
        ({"explore": "swap", "center": True}, 'explore="swap" holds its edges'),
        ({"explore": "swap", "update": "project"}, 'explore="swap" holds its edges'),
        ({"explore": "swap", "lr": 1.5}, "at most 1, got 1.5"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GateSGD(make(), **options)


@pytest.mark.parametrize("options", [{"balance": True}, {"explore": "swap"}])
def test_real_gates_do_not_choose(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='needs gates that choose, and one has mode="real"'):
        GateSGD([Gate(3, 4, 2, mode="real")], **options)


def test_a_gate_with_slots_that_cannot_be_an_edge_has_no_balance() -> None:
    gate = Gate(3, 3, 1, usable=torch.ones(3, 3, dtype=torch.bool).tril())
    with pytest.raises(ValueError, match="every target may read every source"):
        GateSGD([gate], balance=True)


def test_real_gates_use_all_positive_scores_while_others_are_held() -> None:
    binary, real = Gate(4, 6, 2), Gate(4, 6, 2, mode="real")
    optimizer = GateSGD([binary, real], lr=1.0, draw_every=3)
    start = binary.active.clone()
    real.scores.grad = torch.zeros(4, 6)
    real.scores.grad[:, :2] = 5
    binary.scores.grad = torch.zeros(4, 6)
    optimizer.step()
    assert torch.equal(binary.active, start)
    assert torch.equal(real.active, real.scores > 0)
    assert not real.active[:, :2].any()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_default_device_does_not_matter(options: dict[str, Any]) -> None:
    both = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        gates = make()
        optimizer = GateSGD(gates, **options)
        for _ in range(3):
            set_gradients(gates)
            with torch.device(device):
                optimizer.step()
        both.append([*wirings(gates), *scores_of(gates)])
    assert same(*both)
