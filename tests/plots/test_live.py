"""Bars count the live branches that networkx finds."""

from itertools import pairwise

import pytest
import torch

from tests.plots.wirings import chain, is_inside, learned, live_nodes, skipping
from wiring_lightning.plots import draw_active_by_depth, draw_active_nodes
from wiring_lightning.wiring import Wiring

# One network


def test_active_nodes_are_counted_by_depth(wiring):
    live = live_nodes(wiring)
    rows = range(1, int(wiring.nodes.group.max()))
    expected, total = [], []
    for row in rows:
        members = [wiring.nodes.names[i] for i in (wiring.nodes.group == row).nonzero().flatten()]
        expected.append(len(live & set(members)))
        total.append(len(members))
    axes = draw_active_nodes(wiring).axes[0]
    assert [round(bar.get_height()) for bar in axes.containers[0]] == expected
    assert [round(bar.get_center()[0]) for bar in axes.containers[0]] == list(rows)
    assert [round(value) for value in axes.patches[-1].get_data().values] == total


def test_active_nodes_of_a_long_chain_are_one_shape():
    axes = draw_active_nodes(chain(2000)).axes[0]
    assert len(axes.patches) == 2
    assert axes.patches[0].get_data().values.sum() == 1998


def test_active_nodes_are_all_dead_if_no_edge_is_active():
    wiring = skipping()
    (axes,) = draw_active_nodes(wiring.with_active(torch.zeros_like(wiring.active))).axes
    assert [bar.get_height() for bar in axes.containers[0]] == [0, 0, 0]


# Several networks


def live_by_row(wiring: Wiring) -> list[int]:
    """Live nodes of every inner row, by networkx."""
    live = live_nodes(wiring)
    rows = wiring.nodes.group.tolist()
    names = zip(wiring.nodes.names, rows, strict=True)
    counts = [0] * (max(rows) + 1)
    for name, row in names:
        counts[row] += name in live
    return counts[1:-1]


def test_every_network_is_a_series_of_bars():
    wirings = {f"K = {k}": learned(depth=29, cardinality=6, fan_in=k) for k in (1, 2, 4)}
    figure = draw_active_by_depth(wirings, title="three")
    (axes,) = figure.axes
    assert [bars.get_label() for bars in axes.containers] == list(wirings)
    for bars, wiring in zip(axes.containers, wirings.values(), strict=True):
        assert [bar.get_height() for bar in bars] == live_by_row(wiring)
        assert [round(bar.get_center()[0]) for bar in bars] == list(range(1, 10))
    assert axes.get_title(loc="left") == "three"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("module", "live branches")
    assert len({bars[0].get_facecolor() for bars in axes.containers}) == 3


def test_bars_do_not_overlap():
    wirings = {str(k): learned(depth=11, fan_in=k) for k in range(1, 5)}
    (axes,) = draw_active_by_depth(wirings).axes
    spans = sorted(
        (bar.get_x(), bar.get_x() + bar.get_width()) for bars in axes.containers for bar in bars
    )
    assert all(one[1] < other[0] + 1e-9 for one, other in pairwise(spans))


def test_networks_of_different_size_share_a_picture():
    wirings = {
        "short": learned(depth=11, cardinality=4, fan_in=1),
        "long": learned(depth=20, cardinality=8, fan_in=1),
    }
    (axes,) = draw_active_by_depth(wirings).axes
    assert [len(bars) for bars in axes.containers] == [3, 6]
    profiles = [patch.get_data().values.tolist() for patch in axes.patches[9:]]
    assert profiles == [[4] * 3, [8] * 6]


def test_a_chain_counts_blocks():
    (axes,) = draw_active_by_depth({"chain": chain(8), "skips": skipping()}).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block", "live blocks")
    assert [bar.get_height() for bar in axes.containers[1]] == live_by_row(skipping()) == [0, 1, 0]


def test_no_network_is_refused():
    with pytest.raises(ValueError, match="no wiring"):
        draw_active_by_depth({})


def test_many_networks_are_told_apart_or_refused():
    """Each has a look of its own, and a name that is inside the picture."""
    wirings = {f"K = 1 (version_{n})": learned(depth=11, fan_in=1) for n in range(24)}
    figure = draw_active_by_depth(wirings)
    figure.canvas.draw()
    bars = [container[0] for container in figure.axes[0].containers]
    looks = {(bar.get_facecolor(), bar.get_edgecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == 24
    assert is_inside(figure.legends[0], figure)
    with pytest.raises(ValueError, match="tells at most 24 networks apart, but 25 are given"):
        draw_active_by_depth({**wirings, "one more": learned(depth=11, fan_in=1)})
