"""A few weights that are zero by chance make no layer sparse; what was removed always does."""

import pytest
import torch
from torch import nn

from wiring_lightning.backbones import ResNet
from wiring_lightning.callbacks.layer_table import layer_text
from wiring_lightning.cli.report import network_rows, sparse_rows, summarize_zeros, weight_rows
from wiring_lightning.costs import layer_costs
from wiring_lightning.costs.layers import costs_of, find_matrices, sum_of
from wiring_lightning.costs.shares import percent, zeros_by_chance
from wiring_lightning.plots import draw_densities, style


def layer(inputs: int, outputs: int, zeros: int) -> nn.Linear:
    one = nn.Linear(inputs, outputs, bias=False)
    one.weight.data.fill_(1.0).view(-1)[:zeros] = 0
    return one


@pytest.mark.parametrize(("side", "zeros"), [(1448, 1), (1448, 6), (320, 2), (64, 1), (4, 0)])
def test_few_zeros_in_many_weights_make_no_layer_sparse(side: int, zeros: int) -> None:
    network = nn.Sequential(layer(side, side, zeros))
    rows = layer_costs(network)
    assert [row.weights - row.kept for row in rows] == [zeros]
    assert not rows[0].sparse
    assert not sum_of(rows).sparse
    assert sparse_rows(network) == []
    assert summarize_zeros(network, rows) == {}
    assert [label for label, _ in weight_rows(network)] == ["parameters", "weights"]
    (bar,) = draw_densities(rows).axes[0].containers[0]
    assert bar.get_facecolor()[:3] == pytest.approx(
        tuple(int(style.PRUNED[i : i + 2], 16) / 255 for i in (1, 3, 5))
    )


def test_chance_adds_nothing_to_the_report_of_a_network_with_a_wiring() -> None:
    network = ResNet(depth=20, wiring="previous", stem="cifar")
    before = network_rows(network)
    name, weight = max(network.named_parameters(), key=lambda named: named[1].numel())
    weight.data.view(-1)[:3] = 0
    assert network_rows(network, layer_costs(network)) == before
    weight.data.view(-1)[:300] = 0
    rows = dict(network_rows(network, layer_costs(network)))
    assert rows["kept by layer"] == f"{name.removesuffix('.weight')} 99.2%"


def test_a_dense_layer_beside_a_sparse_one_stays_dense() -> None:
    rows = layer_costs(nn.Sequential(layer(1000, 1000, 2), layer(1000, 100, 50_000)))
    assert [row.sparse for row in rows] == [False, True]
    assert sum_of(rows).sparse
    assert sum_of(rows).weights - sum_of(rows).kept == 50_002
    labels = [text.get_text() for text in draw_densities(rows).figure.legends[0].get_texts()]
    assert labels == ["sparse", "dense", "all together"]


@pytest.mark.parametrize("weights", [2, 64, 1000, 1023])
def test_one_weight_that_a_small_layer_lacks_was_removed(weights: int) -> None:
    (row,) = layer_costs(nn.Sequential(layer(weights, 1, 1)))
    assert row.sparse


@pytest.mark.parametrize("weights", [1 << power for power in range(1, 40)] + [8191, 8193, 999_999])
def test_a_density_of_0_999_is_never_chance(weights: int) -> None:
    removed = weights - int(0.999 * weights)
    assert removed > zeros_by_chance(weights)


def test_what_a_learner_names_is_sparse_however_little_it_lacks() -> None:
    network = nn.Sequential(layer(1000, 1000, 0))
    mask = torch.ones(1000, 1000, dtype=torch.bool)
    mask[0, 0] = False
    (row,) = costs_of(find_matrices(network), {network[0].weight: mask}, None)
    assert row.sparse
    assert sparse_rows(network, [row])[0] == (
        "weights kept",
        "999,999 of 1,000,000 in sparse layers (99.999%)",
    )


def test_uniform_draws_are_rarely_zero() -> None:
    """What the rule rests on: 24 random bits, here of 2**23 draws."""
    drawn = torch.empty(1 << 23).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    assert int((drawn == 0).sum()) <= zeros_by_chance(drawn.numel())


def test_no_share_below_all_reads_as_all_and_none_above_nothing_as_nothing() -> None:
    shares = [1 - 10.0**-power for power in range(1, 16)]
    assert "100.0%" not in map(percent, shares)
    assert not {"0.0%", "0.000%"} & {percent(1 - share) for share in shares}
    assert (percent(0), percent(1), percent(0.99949)) == ("0.0%", "100.0%", "99.9%")
    shown = layer_text(layer_costs(nn.Sequential(layer(100, 100, 1))))
    assert "100.0%" not in shown
    assert "99.990%" in shown
