from collections import Counter
from copy import deepcopy
from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from tests.optim.gate_runs import run, uninterrupted_and_resumed
from wiring_lightning.functional import sample_k_distinct
from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD

SHAPES = [(3, 4, 2), (1, 7, 3), (5, 2, 1), (2, 6, 6)]  # targets, candidates, K


def make() -> list[Gate]:
    gates = [Gate(*shape).double() for shape in SHAPES]
    for gate in gates:
        set_scores(gate, torch.rand_like(gate.scores).softmax(1))
    return gates


def set_scores(gate: Gate, scores: Tensor) -> None:
    with torch.no_grad():
        gate.scores.copy_(scores)


def set_gradients(gates: list[Gate]) -> None:
    for gate in gates:
        gate.scores.grad = torch.randn_like(gate.scores)


def algorithm_1(gate: Gate, lr: float, normalize: bool = True) -> np.ndarray:
    """Clip, then normalise, one row and one entry at a time."""
    rows = []
    for scores, slopes in zip(gate.scores.tolist(), gate.scores.grad.tolist(), strict=True):
        row = [min(1.0, max(0.0, s - lr * g)) for s, g in zip(scores, slopes, strict=True)]
        if normalize:
            row = [s / sum(row) for s in row] if sum(row) > 0 else [1 / len(row)] * len(row)
        rows.append(row)
    return np.array(rows)


def topk(gate: Gate) -> list[list[bool]]:
    marked = []
    for row in gate.scores.tolist():
        best = sorted(range(len(row)), key=lambda k: (-row[k], k))[: gate.fan_in]
        marked.append([k in best for k in range(len(row))])
    return marked


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("lr", [0.0, 0.2, 3.0])
def test_a_step_is_algorithm_1(lr: float, normalize: bool) -> None:
    """Gates of different sizes are updated together as each would be alone."""
    gates = make()
    optimizer = GateSGD(gates, lr=lr, normalize=normalize)
    for _ in range(3):
        set_gradients(gates)
        expected = [algorithm_1(gate, lr, normalize) for gate in gates]
        optimizer.step()
        for gate, scores in zip(gates, expected, strict=True):
            np.testing.assert_allclose(gate.scores.detach().numpy(), scores, atol=1e-12)


def test_a_row_that_is_clipped_to_zero_becomes_uniform() -> None:
    gate = Gate(2, 4, 2)
    optimizer = GateSGD([gate], lr=1.0)
    gate.scores.grad = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-2.0, 0.0, 0.0, 1.0]])
    optimizer.step()
    expected = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1 / 1.5, 1 / 6, 1 / 6, 0.0]])
    torch.testing.assert_close(gate.scores.detach(), expected)


def test_other_bounds_may_be_set() -> None:
    gate = Gate(1, 3, 1)
    optimizer = GateSGD([gate], lr=1.0, normalize=False, low=0.1, high=0.6)
    gate.scores.grad = torch.tensor([[5.0, -5.0, 0.0]])
    optimizer.step()
    torch.testing.assert_close(gate.scores.detach(), torch.tensor([[0.1, 0.6, 1 / 3]]))


@pytest.mark.parametrize("normalize", [True, False])
def test_every_target_has_k_active_sources_after_every_step(normalize: bool) -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.3, normalize=normalize)
    for _ in range(20):
        set_gradients(gates)
        optimizer.step()
        for gate in gates:
            assert (gate.active.sum(1) == gate.fan_in).all()


def test_the_draw_follows_the_new_scores() -> None:
    """The gradient leaves exactly K positive scores, other ones than before."""
    gate = Gate(6, 5, 2)
    set_scores(gate, torch.tensor([0.4, 0.3, 0.3, 0.0, 0.0]).expand(6, 5))
    optimizer = GateSGD([gate], lr=1.0)
    gate.scores.grad = torch.tensor([1.0, 1.0, 1.0, -0.3, -0.1]).expand(6, 5).clone()
    optimizer.step()
    assert gate.active.tolist() == [[False, False, False, True, True]] * 6


def draws_over_time(steps: int, seed: int) -> list[list[frozenset[int]]]:
    """What two targets with fixed scores draw in every step."""
    gate = Gate(2, 4, 2)
    scores = torch.tensor([0.4, 0.3, 0.2, 0.1])
    set_scores(gate, scores.expand(2, 4))
    optimizer = GateSGD([gate], lr=0.0, seed=seed)
    gate.scores.grad = torch.zeros(2, 4)
    drawn = []
    for _ in range(steps):
        optimizer.step()
        drawn.append([frozenset(np.flatnonzero(row)) for row in gate.active.numpy()])
    return drawn


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_over_time_follow_the_law_and_are_independent(seed: int) -> None:
    """Each step has a generator of its own; neighbouring seeds must not give related draws."""
    scores = [0.4, 0.3, 0.2, 0.1]
    law: Counter[frozenset[int]] = Counter()
    for first, second in permutations(range(4), 2):
        law[frozenset((first, second))] += scores[first] * scores[second] / (1 - scores[first])
    drawn = draws_over_time(3000, seed)
    for target in (0, 1):
        counts = Counter(draw[target] for draw in drawn)
        expected = [p * len(drawn) for p in law.values()]
        assert min(expected) > 5
        assert chisquare([counts[chosen] for chosen in law], expected).pvalue > 1e-3
    firsts = [draw[0] for draw in drawn]
    seconds = [draw[1] for draw in drawn]
    for one, other in ((firsts, seconds), (firsts[1:], firsts[:-1]), (firsts[1:], seconds[:-1])):
        table = Counter(zip(one, other, strict=True))
        counts = np.array([table[pair] for pair in product(law, law)]).reshape(len(law), -1)
        assert chi2_contingency(counts).pvalue > 1e-3


def test_seeds_decide_the_draws_and_nothing_else() -> None:
    assert draws_over_time(20, 5) == draws_over_time(20, 5)
    assert draws_over_time(20, 5) != draws_over_time(20, 6)
    state = torch.get_rng_state()
    gates = make()
    torch.set_rng_state(state)
    optimizer = GateSGD(gates)
    set_gradients(gates)
    state = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("normalize", [True, False])
def test_a_resumed_run_draws_what_the_uninterrupted_run_draws(normalize: bool) -> None:
    options = {"lr": 0.1, "normalize": normalize, "seed": 11}
    expected, actual = uninterrupted_and_resumed(make, options, 7, 12)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert len({str(wiring.tolist()) for wiring in expected[::8]}) > 3  # the first gate moved


def test_frozen_gates_are_passed_over() -> None:
    gates = make()
    gates[1].freeze()
    before = deepcopy(gates[1].state_dict())
    optimizer = GateSGD(gates, lr=0.2)
    set_gradients(gates)
    expected = [algorithm_1(gate, 0.2) for gate in gates]
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in gates[1].state_dict().items())
    for index in (0, 2, 3):
        scores = gates[index].scores.detach().numpy()
        np.testing.assert_allclose(scores, expected[index], atol=1e-12)
    assert not optimizer.frozen


def test_gates_may_freeze_one_after_another() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.2)
    for gate in gates:
        set_gradients(gates)
        gate.freeze()
        expected = {
            other: algorithm_1(other, 0.2) for other in gates if other.scores.grad is not None
        }
        expected.pop(gate, None)
        learning = [other for other in gates if other.learnable]
        optimizer.step()
        for other in learning:
            scores = other.scores.detach().numpy()
            np.testing.assert_allclose(scores, expected[other], atol=1e-12)
    assert optimizer.frozen


def test_gates_without_a_gradient_wait() -> None:
    gates = make()
    before = deepcopy(gates[0].state_dict())
    optimizer = GateSGD(gates)
    set_gradients(gates)
    gates[0].scores.grad = None
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in gates[0].state_dict().items())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_that_are_not_finite_count_as_zero(normalize: bool, bad: float) -> None:
    gates = make()
    optimizer = GateSGD(gates, normalize=normalize)
    set_gradients(gates)
    for gate in gates:
        gate.scores.grad[:, ::2] = 0
    expected = [algorithm_1(gate, 0.2, normalize) for gate in gates]
    for gate in gates:
        gate.scores.grad[:, ::2] = bad
    optimizer.step()
    for gate, scores in zip(gates, expected, strict=True):
        np.testing.assert_allclose(gate.scores.detach().numpy(), scores, atol=1e-12)


def test_a_gradient_of_nan_alone_leaves_the_scores_as_they_were() -> None:
    gates = make()
    before = [gate.scores.detach().clone() for gate in gates]
    for gate in gates:
        gate.scores.grad = torch.full_like(gate.scores, torch.nan)
    GateSGD(gates).step()
    for gate, scores in zip(gates, before, strict=True):
        torch.testing.assert_close(gate.scores.detach(), scores, rtol=0, atol=1e-15)


def test_a_closure_gives_the_gradient_and_the_loss() -> None:
    gate = Gate(2, 3, 1)
    optimizer = GateSGD([gate], lr=0.1, normalize=False)
    slopes = torch.tensor([[1.0, -1.0, 2.0], [0.5, 0.0, -3.0]])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (gate.weights() * slopes).sum()
        loss.backward()
        return loss.detach()

    expected = (1 / 3 - 0.1 * slopes).clamp(0, 1)
    loss_before = (gate.active * slopes).sum()
    assert float(optimizer.step(closure)) == pytest.approx(float(loss_before))
    torch.testing.assert_close(gate.scores.detach(), expected)
    optimizer.zero_grad()
    assert optimizer.step() is None


def test_freezing_makes_the_best_wiring_the_wiring_for_good() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.3)
    for _ in range(3):
        set_gradients(gates)
        optimizer.step()
    best = [topk(gate) for gate in gates]
    assert [gate.active.tolist() for gate in gates] != best
    optimizer.freeze()
    assert optimizer.frozen
    for _ in range(3):
        set_gradients(gates)
        optimizer.step()
        assert [gate.active.tolist() for gate in gates] == best
        assert [topk(gate) for gate in gates] == best


def test_updates_are_written_in_place() -> None:
    gates = make()
    tensors = [tensor for gate in gates for tensor in (gate.scores, gate.active)]
    places = [tensor.data_ptr() for tensor in tensors]
    optimizer = GateSGD(gates)
    run(gates, optimizer, 2)
    optimizer.freeze()
    assert [t.data_ptr() for gate in gates for t in (gate.scores, gate.active)] == places


def test_real_gates_update_beside_binary_ones() -> None:
    binary, real = Gate(2, 4, 2), Gate(3, 5, 2, mode="real")
    optimizer = GateSGD([binary, real], lr=0.5, normalize=False)
    set_gradients([binary, real])
    real.scores.grad[:, 0] = 10
    expected = algorithm_1(real, 0.5, normalize=False)
    optimizer.step()
    np.testing.assert_allclose(real.scores.detach().numpy(), expected, atol=1e-6)
    assert real.active.tolist() == (expected > 0).tolist()
    assert (binary.active.sum(1) == 2).all()


def test_a_scheduler_may_move_the_learning_rate() -> None:
    gates = make()
    optimizer = GateSGD(gates, lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for lr in (0.4, 0.2, 0.1):
        set_gradients(gates)
        expected = [algorithm_1(gate, lr) for gate in gates]
        optimizer.step()
        scheduler.step()
        for gate, scores in zip(gates, expected, strict=True):
            np.testing.assert_allclose(gate.scores.detach().numpy(), scores, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lr": -0.1}, "lr"),
        ({"low": -0.1}, "low"),
        ({"low": 0.5, "high": 0.5}, "high"),
        ({"low": 0.6, "high": 0.5}, "high"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GateSGD(make(), **options)


def test_there_must_be_a_gate() -> None:
    with pytest.raises(ValueError, match="no gate"):
        GateSGD([])


def test_a_copy_of_optimizer_and_gates_steps_alike() -> None:
    gates = make()
    optimizer = GateSGD(gates)
    others, copied = deepcopy((gates, optimizer))
    expected = run(gates, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(run(others, copied, 3), expected, strict=True))


def test_the_draw_is_on_the_cpu_wherever_the_scores_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores on `meta`, without values, stand for those on a GPU."""
    devices = []

    def spy(scores: Tensor, k: Tensor, generator: torch.Generator) -> Tensor:
        devices.append((scores.device.type, generator.device.type))
        return sample_k_distinct(scores, k, generator)

    monkeypatch.setattr("wiring_lightning.optim.mask_connect.sample_k_distinct", spy)
    for device in ("cpu", "meta"):
        gates = [Gate(*SHAPES[0]).to(device), Gate(*SHAPES[1]).to(device)]
        set_gradients(gates)
        GateSGD(gates, lr=0.1).step()
    assert devices == [("cpu", "cpu"), ("meta", "cpu")]
