import io
from collections.abc import Callable
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import BernoulliGate, Gate, Selection, find_gates, find_learnable
from wiring_lightning.optim import GateSGD


class Loop(nn.Module):
    """Sources, gates and a nonlinear reader, one target and one source at a time."""

    def __init__(self, targets: int, candidates: int) -> None:
        super().__init__()
        self.sources = nn.ModuleList(nn.Linear(5, 6) for _ in range(candidates))
        self.readers = nn.ModuleList(nn.Linear(6, 3) for _ in range(targets))

    def loss(self, gates: Tensor, images: Tensor) -> Tensor:
        outputs = [torch.tanh(source(images)) for source in self.sources]
        total = images.new_zeros(())
        for row, reader in zip(gates, self.readers, strict=True):
            x = sum(gate * y for gate, y in zip(row, outputs, strict=True))
            total = total + reader(torch.relu(x)).square().mean()
        return total

    def loss_with(self, gate: Gate, images: Tensor) -> Tensor:
        stacked = torch.stack([torch.tanh(source(images)) for source in self.sources], 1)
        inputs = torch.relu(gate(stacked)).unbind(1)
        return sum(
            reader(x).square().mean() for x, reader in zip(inputs, self.readers, strict=True)
        )


def slopes(loop: Loop, gates: Tensor, images: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences of the loss in the value of every single gate."""
    result = torch.zeros_like(gates)
    for j in range(gates.shape[0]):
        for k in range(gates.shape[1]):
            bump = torch.zeros_like(gates)
            bump[j, k] = step
            with torch.no_grad():
                rise = loop.loss(gates + bump, images) - loop.loss(gates - bump, images)
            result[j, k] = rise / (2 * step)
    return result


def set_scores(gate: Gate, scores: Tensor) -> None:
    with torch.no_grad():
        gate.scores.copy_(scores)


def edges(mask: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in mask]


@pytest.mark.parametrize("fan_in", [1, 2, 4])
@pytest.mark.parametrize("training", [True, False])
def test_every_gate_gets_the_slope_of_the_loss_chosen_or_not(training: bool, fan_in: int) -> None:
    loop, images = Loop(3, 4).double(), torch.randn(7, 5, dtype=torch.float64)
    gate = Gate(3, 4, fan_in).double().train(training)
    set_scores(gate, torch.rand(3, 4))
    binary = (gate.active if training else gate.best).double()
    assert set(binary.flatten().tolist()) <= {0.0, 1.0}
    loss = loop.loss_with(gate, images)
    torch.testing.assert_close(loss, loop.loss(binary, images))
    loss.backward()
    expected = slopes(loop, binary, images)
    assert expected.abs().min() > 1e-6  # absent edges matter as well
    torch.testing.assert_close(gate.scores.grad, expected, rtol=1e-6, atol=1e-8)


def test_sources_get_their_gradient_through_active_gates_only() -> None:
    gate = Gate(2, 4, 1)
    gate.active.copy_(torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]))
    sources = torch.randn(3, 4, 6, requires_grad=True)
    gate(sources).sum().backward()
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 4, 1).expand(3, 4, 6)
    assert torch.equal(sources.grad, expected)


def test_training_uses_what_was_drawn_and_evaluation_the_best() -> None:
    gate = Gate(2, 4, 2)
    set_scores(gate, torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]))
    gate.active.copy_(torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]]))
    sources = torch.eye(4).unsqueeze(0)
    assert edges(gate(sources)[0]) == [[0, 3], [1, 2]]
    assert edges(gate.eval()(sources)[0]) == [[1, 2], [2, 3]]  # of equal scores, the last
    assert edges(gate.train()(sources)[0]) == [[0, 3], [1, 2]]


def test_a_new_gate_has_k_random_edges_and_uniform_scores() -> None:
    gates = [Gate(8, 8, 3) for _ in range(4)]
    assert all((gate.active.sum(1) == 3).all() for gate in gates)
    assert len({str(edges(gate.active)) for gate in gates}) == 4
    assert torch.equal(gates[0].scores, torch.full((8, 8), 1 / 8))


@pytest.mark.parametrize("fan_in", [-1, 0, 5])
def test_k_must_be_between_one_and_the_candidates(fan_in: int) -> None:
    with pytest.raises(ValueError, match=r"fan_in .* 4 here, got " + str(fan_in)):
        Gate(3, 4, fan_in)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode"):
        Gate(3, 4, 2, mode="soft")


@pytest.mark.parametrize("mode", ["random", "covered"])
def test_random_gates_stay_and_have_no_gradient(mode: str) -> None:
    gate = Gate(5, 6, 2, mode=mode)
    assert not gate.learnable
    assert bool(gate.frozen)
    sources = torch.randn(2, 6, 3, requires_grad=True)
    trained = gate(sources)
    trained.sum().backward()
    assert gate.scores.grad is None
    assert (gate.active.sum(1) == 2).all()
    assert torch.equal(gate.active, gate.best)
    assert torch.equal(gate.eval()(sources), trained)


@pytest.mark.parametrize("mode", ["random", "covered"])
def test_a_random_gate_does_not_learn_after_loading_a_learned_one(mode: str) -> None:
    gate, learned = Gate(3, 4, 2, mode=mode), Gate(3, 4, 2)
    learned.active.copy_(torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]))
    gate.load_state_dict(learned.state_dict())
    assert not gate.learnable


def test_a_covered_gate_reads_every_candidate() -> None:
    earlier = torch.ones(6, 6, dtype=torch.bool).tril()
    for make in (lambda: Gate(4, 8, 2, "covered"), lambda: Gate(6, 6, 2, "covered", earlier)):
        drawn = []
        for seed in (0, 0, 1, 2, 3):
            torch.manual_seed(seed)
            drawn.append(make().best)
            assert drawn[-1].any(0).all()
        assert torch.equal(drawn[0], drawn[1])
        assert len({str(edges(mask)) for mask in drawn}) == 4
    with pytest.raises(ValueError, match=r"3 targets with K = 2 .* all of 7 sources: raise fan_in"):
        Gate(3, 7, 2, mode="covered")


def test_a_covered_gate_refuses_a_wiring_that_leaves_a_candidate_unread() -> None:
    gate = Gate(3, 4, 2, mode="covered")
    given = {**gate.state_dict(), "active": torch.tensor([[1, 1, 0, 0]] * 3).bool()}
    with pytest.raises(RuntimeError, match="a candidate there that no target reads"):
        gate.load_state_dict(given)


def test_a_covered_gate_is_built_without_memory_and_filled_later() -> None:
    with torch.device("meta"):
        bare = Gate(3, 4, 2, mode="covered")
    gate = Gate(3, 4, 2, mode="covered")
    bare.load_state_dict(gate.state_dict(), assign=True)
    assert torch.equal(bare.best, gate.best)
    assert not bare.learnable


def test_real_gates_weigh_all_candidates_with_a_sum_of_k() -> None:
    gate = Gate(3, 4, 2, mode="real")
    optimizer = GateSGD([gate], lr=0.3)
    for _ in range(3):
        torch.testing.assert_close(gate.weights().sum(1), torch.full((3,), 2.0))
        gate.scores.grad = torch.randn(3, 4)
        optimizer.step()
    weights = gate.weights()
    assert weights.std() > 0.1
    sources = torch.randn(2, 4, 5)
    expected = torch.einsum("jk,bkd->bjd", weights, sources)
    torch.testing.assert_close(gate(sources), expected)
    torch.testing.assert_close(gate.eval()(sources), expected)


def test_real_gates_get_the_slope_of_the_loss() -> None:
    loop, images = Loop(3, 4).double(), torch.randn(7, 5, dtype=torch.float64)
    gate = Gate(3, 4, 2, mode="real").double()
    loop.loss_with(gate, images).backward()
    weights = gate.weights().detach()
    torch.testing.assert_close(gate.scores.grad, 2 * slopes(loop, weights, images))


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("wiring", ["learned", "random", "covered", "real"])
def test_weights_alone_are_the_whole_network(wiring: str, frozen: bool) -> None:
    network = ResNeXt(11, 2, 4, 2, wiring=wiring)
    images = torch.randn(2, 3, 8, 8)
    for gate in find_gates(network).values():
        set_scores(gate, torch.rand(4, 4))
        if frozen:
            gate.freeze()
    network(images)  # moves the running statistics
    torch.manual_seed(1)
    bare = ResNeXt(11, 2, 4, 2, wiring=wiring)
    bare.load_state_dict(through_a_file(network.state_dict()))
    assert torch.equal(bare.eval()(images), network.eval()(images))
    for name, gate in network.connections.items():
        assert torch.equal(bare.connections[name].active, gate.active)
        expected = not frozen and wiring in ("learned", "real")
        assert bare.connections[name].scores.requires_grad == expected
        assert bare.connections[name].learnable == expected


def test_loading_an_unfrozen_network_thaws_the_gates() -> None:
    gate, other = Gate(3, 4, 2), Gate(3, 4, 2)
    other.freeze()
    other.load_state_dict(gate.state_dict())
    assert other.learnable


def test_loading_by_assignment_keeps_the_frozen_mark() -> None:
    gate, other = Gate(3, 4, 2), Gate(3, 4, 2)
    gate.freeze()
    other.load_state_dict(through_a_file(gate.state_dict()), assign=True)
    assert not other.learnable


MAKERS: dict[str, Callable[[], Gate | BernoulliGate]] = {
    "learned": lambda: Gate(3, 4, 2),
    "real": lambda: Gate(3, 4, 2, mode="real"),
    "random": lambda: Gate(3, 4, 2, mode="random"),
    "covered": lambda: Gate(3, 4, 2, mode="covered"),
    "drawn": lambda: BernoulliGate(3, [0, 0, 1], [1, 2, 2]),
}
# What happens to a gate, and what its wiring is then: frozen, learning, or as before.
EVENTS: dict[str, bool | None] = {
    "freeze": True, "off": None, "on": None, "copy": None, "load frozen": True, "load": False,
    "write": True
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_only_a_freeze_or_a_state_says_whether_a_gate_learns(kind: str) -> None:
    frozen_state = MAKERS[kind]()
    frozen_state.freeze()
    for events in product(EVENTS, repeat=2):
        gate = MAKERS[kind]()
        always = frozen = kind in ("random", "covered")
        for event in events:
            if event == "freeze":
                gate.freeze()
            elif event in ("on", "off"):
                gate.requires_grad_(event == "on")
            elif event == "copy":
                gate = deepcopy(gate)
            elif event == "write":
                gate.frozen.fill_(True)
                gate.follow_frozen_mark()
            else:
                given = frozen_state if event == "load frozen" else MAKERS[kind]()
                gate.load_state_dict(given.state_dict())
            changed = EVENTS[event]
            frozen = always or (frozen if changed is None else changed)
            assert gate.learnable == (not frozen)
            assert bool(gate.frozen) == frozen
            assert bool(find_learnable(nn.ModuleList([gate]))) == (not frozen)


@pytest.mark.parametrize("kind", ["learned", "real", "random", "covered"])
def test_the_scores_of_a_frozen_gate_get_no_gradient_whatever_is_switched_on(kind: str) -> None:
    gate, sources = MAKERS[kind](), torch.randn(2, 4, 3, requires_grad=True)
    assert isinstance(gate, Gate)
    gate.freeze()
    gate.requires_grad_(True)
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    optimizer = GateSGD([gate], lr=1.0)
    for _ in range(3):
        gate(sources).square().sum().backward()
        assert gate.scores.grad is None
        optimizer.step()
    assert optimizer.frozen
    assert sources.grad is not None
    assert all(torch.equal(before[name], value) for name, value in gate.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frozen_wiring_does_not_change_when_its_scores_are_rounded(dtype: torch.dtype) -> None:
    gate = Gate(16, 32, 8)
    set_scores(gate, 0.5 + torch.rand(16, 32) / 1000)  # nearly all of them become equal
    gate.freeze()
    expected = gate.active.clone()
    rounded = gate.to(dtype).eval()
    assert len(rounded.scores.unique()) < 10
    assert torch.equal(rounded.best, expected)
    assert torch.equal(rounded.weights() != 0, expected)


def test_loading_does_not_switch_on_scores_that_take_no_gradient() -> None:
    for make in MAKERS.values():
        gate = make().requires_grad_(False)
        gate.load_state_dict(make().state_dict())
        assert not any(parameter.requires_grad for parameter in gate.parameters())


def test_freezing_makes_the_best_wiring_the_wiring() -> None:
    gate = Gate(3, 5, 2)
    scores = torch.rand(3, 5)
    set_scores(gate, scores)
    gate(torch.randn(2, 5, 3)).sum().backward()
    gate.freeze()
    best = [sorted(row.argsort(descending=True)[:2].tolist()) for row in scores]
    assert edges(gate.active) == best
    assert not gate.learnable
    assert gate.scores.grad is None
    sources = torch.randn(2, 5, 3)
    assert torch.equal(gate(sources), gate.eval()(sources))


def test_a_selection_sums_as_it_is_told() -> None:
    weights = torch.randn(3, 4, dtype=torch.float64)
    selection, sources = Selection(weights, weights), torch.randn(2, 4, 5, dtype=torch.float64)
    expected = torch.einsum("jk,bkd->bjd", weights, sources)
    torch.testing.assert_close(selection(sources), expected)
    assert not list(selection.parameters())


def test_only_gates_that_learn_or_have_learned_are_found() -> None:
    network = nn.ModuleDict(
        {
            "learned": Gate(2, 3, 1),
            "random": Gate(2, 3, 1, mode="random"),
            "covered": Gate(3, 3, 1, mode="covered"),
            "deep": nn.Sequential(nn.Linear(2, 2), Gate(2, 3, 1, mode="real")),
            "frozen": Gate(2, 3, 1),
        }
    )
    network["frozen"].freeze()
    assert set(find_gates(network)) == {"learned", "deep.1", "frozen"}


# Candidates that differ by target, and weights on the edges


def test_targets_choose_among_their_own_candidates_only() -> None:
    earlier = torch.ones(5, 5, dtype=torch.bool).tril()
    gate = Gate(5, 5, fan_in=2, usable=earlier)
    assert torch.equal(gate.scores >= 0, earlier)
    expected = earlier.float() / earlier.sum(1, keepdim=True)
    torch.testing.assert_close(gate.scores.detach().clamp_min(0), expected)
    optimizer = GateSGD([gate], lr=0.5)
    for _ in range(20):
        gate(torch.randn(3, 5, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not gate.active[~earlier].any()
        assert gate.active.sum(1).tolist() == [1, 2, 2, 2, 2]
        assert (gate.scores[~earlier] == -1).all()
        torch.testing.assert_close(gate.scores.clamp_min(0).sum(1), torch.ones(5))
    assert not gate.best[~earlier].any()


def test_a_target_without_a_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one candidate"):
        Gate(2, 3, 1, usable=torch.tensor([[True, False, False], [False, False, False]]))


@pytest.mark.parametrize("training", [True, False])
def test_weighted_edges_scale_active_sources_and_learn(training: bool) -> None:
    loop, images = Loop(3, 4).double(), torch.randn(7, 5, dtype=torch.float64)
    gate = Gate(3, 4, 2, weighted=True).double().train(training)
    set_scores(gate, torch.rand(3, 4))
    nn.init.normal_(gate.log_weights, std=0.5)
    binary = (gate.active if training else gate.best).double()
    weights = gate.log_weights.detach().exp()
    loss = loop.loss_with(gate, images)
    torch.testing.assert_close(loss, loop.loss(binary * weights, images))
    loss.backward()
    by_product = slopes(loop, binary * weights, images)
    torch.testing.assert_close(gate.scores.grad, by_product * weights, rtol=1e-6, atol=1e-8)
    expected = by_product * binary * weights  # nothing for absent edges
    torch.testing.assert_close(gate.log_weights.grad, expected, rtol=1e-6, atol=1e-8)


def test_the_weights_of_edges_stay_in_the_users_optimizer_and_survive_compaction() -> None:
    network = ResNeXt(11, 2, 4, 2, weighted=True).eval()
    for gate in find_gates(network).values():
        nn.init.normal_(gate.log_weights, std=0.5)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network.compact()(images), network(images), atol=1e-5, rtol=1e-5)
    selection = next(m for m in network.compact().modules() if isinstance(m, Selection))
    assert len(set(selection.matrix[selection.matrix != 0].tolist())) > 2


def test_the_former_name_of_usable_warns() -> None:
    earlier = torch.ones(3, 3, dtype=torch.bool).tril()
    with pytest.warns(FutureWarning, match="usable"):
        gate = Gate(3, 3, fan_in=1, allowed=earlier)
    assert torch.equal(gate.scores >= 0, earlier)
