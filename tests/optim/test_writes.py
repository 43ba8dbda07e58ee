"""Weights that other code writes between the steps of rules with latent weights."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from wiring_lightning.functional import MaskTimes
from wiring_lightning.optim import DroppedEdgeSet, EdgeSet, StraightThrough, WeightDropout
from wiring_lightning.optim.n_of_m import BlockEdgeSet, SparseRefined


@torch.no_grad()
def _load(layer: nn.Linear, other: nn.Linear) -> None:
    layer.load_state_dict(other.state_dict())


@torch.no_grad()
def _clamp(layer: nn.Linear, _: nn.Linear) -> None:
    layer.weight.clamp_(-0.3, 0.3)


@torch.no_grad()
def _zero_one(layer: nn.Linear, _: nn.Linear) -> None:
    layer.weight.view(-1)[layer.weight.abs().argmax()] = 0


def _as_a_vector(layer: nn.Linear, other: nn.Linear) -> None:
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(other.parameters()), [layer.weight])


WRITES: dict[str, Callable[[nn.Linear, nn.Linear], None]] = {
    "load_state_dict": _load,
    "reset_parameters": lambda layer, _: layer.reset_parameters(),
    "clamp": _clamp,
    "zero": _zero_one,
    "vector_to_parameters": _as_a_vector,
}
LEARNERS: dict[str, Callable[[Optimizer, Tensor], StraightThrough]] = {
    "dnw": lambda sgd, w: StraightThrough(sgd, [EdgeSet([w], 10)]),
    "n_of_m": lambda sgd, w: SparseRefined(sgd, [BlockEdgeSet([w], 24)], decay=0.0),
    "dropout": lambda sgd, w: WeightDropout(sgd, [DroppedEdgeSet([w], 10, rho=1.0)]),
}


def _trained(name: str, scale: float) -> tuple[nn.Linear, SGD, StraightThrough]:
    layer = nn.Linear(8, 6, bias=False)
    sgd = SGD(layer.parameters(), lr=scale)
    rule = LEARNERS[name](sgd, layer.weight)
    for _ in range(20):
        layer.weight.grad = torch.randn_like(layer.weight)
        sgd.step()
    return layer, sgd, rule


def _kept(name: str, values: Tensor) -> Tensor:
    """The edges of dense or sparse values, by a sort."""
    rows = values.view(-1, 4) if name == "n_of_m" else values.view(1, -1)
    order = rows.abs().argsort(descending=True, stable=True)[:, : 2 if name == "n_of_m" else 10]
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
    return (rows * mask).view_as(values)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("write", WRITES)
def test_what_others_write_between_steps_is_what_goes_on(
    write: str, name: str, frozen: bool
) -> None:
    """Written weights are those of the next steps, also where absent ones have grown larger."""
    torch.manual_seed(0)
    layer, sgd, rule = _trained(name, 0.3)
    saved, _, _ = _trained(name, 0.03)  # much smaller, so that old latent weights would win
    if frozen:
        rule.freeze()
    edges = layer.weight != 0
    sgd.param_groups[0]["lr"] = 0.0
    WRITES[write](layer, saved)
    written = layer.weight.detach().clone()
    state = deepcopy(rule.state_dict())
    assert torch.equal(layer.weight, written)  # saving changes nothing
    layer.weight.grad = torch.randn_like(layer.weight)
    sgd.step()
    if frozen:
        expected = written * edges
    elif write == "zero":  # an absent one takes the place
        expected = torch.where(written == 0, layer.weight.detach(), written)
        assert int(layer.weight.count_nonzero()) == int(edges.sum())
    else:
        expected = _kept(name, written)
    assert torch.equal(layer.weight.detach(), expected)
    other, _, resumed = _trained(name, 0.3)
    resumed.load_state_dict(state)
    assert torch.equal(other.weight, layer.weight) or name == "dropout"


def _falling(sgd: Optimizer, weight: Tensor) -> StraightThrough:
    times = MaskTimes(end=99, every=1, initial_density=1.0)
    return StraightThrough(sgd, [EdgeSet([weight], 10)], times)


@pytest.mark.parametrize("make", [*LEARNERS.values(), _falling], ids=[*LEARNERS, "falling"])
def test_what_is_written_right_before_a_freeze_is_frozen(
    make: Callable[[Optimizer, Tensor], StraightThrough],
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6, bias=False)
    rule = make(SGD(layer.parameters(), lr=1.0), layer.weight)
    written = torch.randn_like(layer.weight)
    layer.load_state_dict({"weight": written})
    rule.freeze()
    expected = _kept("n_of_m" if isinstance(rule, SparseRefined) else "dnw", written)
    assert torch.equal(layer.weight, expected)
    assert torch.equal(rule.masks[0], expected != 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_weights_that_are_no_numbers_leave_nothing_behind_a_rollback(name: str) -> None:
    torch.manual_seed(0)
    layer, sgd, rule = _trained(name, 0.3)
    saved = deepcopy(layer.state_dict())
    layer.weight.grad = torch.zeros_like(layer.weight)
    layer.weight.grad[::2] = torch.nan
    sgd.step()
    layer.load_state_dict(saved)
    layer.weight.grad = torch.zeros_like(layer.weight)
    sgd.step()
    assert torch.equal(layer.weight, saved["weight"])
    assert bool(rule.latent[0].isfinite().all())


def test_values_that_are_put_back_change_nothing() -> None:
    """As averages do, which are in the network for a validation."""
    torch.manual_seed(0)
    layer, sgd, rule = _trained("dnw", 0.3)
    latent = rule.latent[0].clone()
    own = layer.weight.detach().clone()
    for values in (torch.randn_like(own), own):
        layer.weight.data.copy_(values)
        layer.weight.detach().copy_(values)
        rule.state_dict()
    layer.weight.grad = torch.zeros_like(own)
    sgd.step()
    assert torch.equal(rule.latent[0], latent)
