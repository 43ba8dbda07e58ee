"""The figures of the papers hold what they were given, whoever calls them."""

from itertools import pairwise
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure, SubFigure

from tests.test_plots import chain, learned, live_nodes, skipping
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.plots import (
    Measurement,
    draw_accuracy,
    draw_active_by_depth,
    draw_connectivity,
)
from wiring_lightning.plots.connectivity import fixed_wiring
from wiring_lightning.wiring import Wiring, make_wiring

# Fixed and learned connectivity


def drawn(side: SubFigure, kind: str) -> int:
    """How many squares or lines of a kind there are."""
    found = 0
    for collection in side.axes[0].collections:
        if str(collection.get_label()).startswith(kind):
            if isinstance(collection, PathCollection):
                found += len(collection.get_offsets())
            else:
                found += len(collection.get_segments())
    return found


def headings(figure: Figure) -> list[str]:
    return [side.texts[0].get_text() for side in figure.subfigs]


def test_the_left_is_full_and_the_right_is_the_wiring():
    wiring = learned(depth=20, cardinality=4, fan_in=1)
    figure = draw_connectivity(wiring, "learned, K = 1")
    left, right = figure.subfigs
    assert headings(figure) == ["fixed (full)", "learned, K = 1"]
    assert (drawn(left, "live"), drawn(left, "pruned")) == (6 * 4, 0)
    assert drawn(left, "given") == 4 + 5 * 4 * 4 + 4
    assert drawn(left, "learned") == drawn(left, "edge of a pruned") == 0
    live = len(live_nodes(wiring)) - 2
    assert live < 6 * 4
    assert (drawn(right, "live"), drawn(right, "pruned")) == (live, 6 * 4 - live)
    assert drawn(right, "learned") == int((wiring.live_edges & wiring.learnable).sum())


def test_both_sides_show_a_node_in_the_same_place():
    for wiring in (learned(depth=11, fan_in=2), skipping()):
        figure = draw_connectivity(wiring)
        low = []
        for side in figure.subfigs:
            axes = side.axes[0]
            places = np.concatenate(
                [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)]
            )
            on_page = axes.transData.transform(places)
            low.append(sorted(on_page[:, 1].round(3).tolist()))
        assert low[0] == low[1]


def test_all_kinds_share_one_legend():
    figure = draw_connectivity(learned(depth=11, cardinality=4, fan_in=1))
    (legend,) = figure.legends
    texts = [text.get_text().strip() for text in legend.get_texts()]
    assert sorted(filter(None, texts)) == [
        "edge of a pruned branch",
        "given edge",
        "input and output",
        "learned edge",
        "live branch",
        "pruned branch",
    ]
    assert not any(side.legends for side in figure.subfigs)


def test_single_blocks_read_the_one_before_on_the_left():
    wiring = skipping()
    figure = draw_connectivity(wiring)
    left, right = figure.subfigs
    assert headings(figure) == ["fixed (previous)", "learned"]
    assert (drawn(left, "live"), drawn(left, "given")) == (3, 4)
    assert (drawn(right, "live"), drawn(right, "pruned")) == (1, 2)  # in, block2, out
    edges = fixed_wiring(wiring)
    pairs = zip(edges.source.tolist(), edges.target.tolist(), edges.active.tolist(), strict=True)
    assert [(i, j) for i, j, active in pairs if active] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_arcs_grow_with_the_distance_and_leave_sideways():
    pairs = [(i, j) for j in range(1, 12) for i in range(j)]
    source, target = zip(*pairs, strict=True)
    names = ["in", *(f"block{i}" for i in range(1, 11)), "out"]
    wiring = make_wiring(names, source, target, [True] * len(pairs), learnable=[True] * len(pairs))
    right = draw_connectivity(wiring).subfigs[1]
    (arcs,) = [c for c in right.axes[0].collections if isinstance(c, LineCollection)]
    heights: dict[int, float] = {}
    for line in arcs.get_segments():
        distance = round(abs(line[-1][1] - line[0][1]) / 0.8)
        if distance > 1:
            heights[distance] = float(line[:, 0].max())
            first = line[1] - line[0]
            assert abs(first[0]) > 5 * abs(first[1])
    assert sorted(heights) == list(range(2, 12))
    ordered = [heights[distance] for distance in sorted(heights)]
    assert ordered == sorted(ordered)
    assert len({round(height, 6) for height in ordered}) == len(ordered)


def test_the_fixed_wiring_is_that_of_the_plain_network():
    fixed = fixed_wiring(learned(depth=20, cardinality=4, fan_in=1))
    plain = ResNeXt(depth=20, cardinality=4, wiring="full").wiring()
    assert torch.equal(fixed.active, plain.active)
    assert torch.equal(fixed.source, plain.source)
    assert not fixed.learnable.any()
    assert fixed.live_nodes.all()


# Live branches by depth


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


# Accuracy over the fan-in

MEASURED = [
    Measurement("learned", 4, 0.8),
    Measurement("learned", 1, 0.5),
    Measurement("learned", 1, 0.6),
    Measurement("learned", 1, 0.61),
    Measurement("random", 4, 0.7),
    Measurement("full", None, 0.75),
    Measurement("full", None, 0.77),
]


def test_points_are_means_and_bars_deviations():
    (axes,) = draw_accuracy(MEASURED).axes
    learned, random = axes.containers
    assert (learned.get_label(), random.get_label()) == ("learned", "random (n = 1)")
    line, _, (bars,) = learned
    assert line.get_xdata().tolist() == [1, 4]
    ones = [50, 60, 61]
    np.testing.assert_allclose(line.get_ydata().astype(float), [mean(ones), 80])
    (several, single) = bars.get_segments()
    np.testing.assert_allclose(
        several[:, 1].astype(float), [mean(ones) - stdev(ones), mean(ones) + stdev(ones)]
    )
    assert len(single) == 0 or np.isnan(single[:, 1].astype(float)).all()  # one run has no spread
    assert [text.get_text() for text in axes.texts] == ["n = 3", "n = 1"]
    assert [text.xy[0] for text in axes.texts] == [1, 4]


def test_a_wiring_without_fan_in_is_a_line_with_a_band():
    (axes,) = draw_accuracy(MEASURED).axes
    (line,) = [line for line in axes.lines if line.get_label() == "full (n = 2)"]
    assert line.get_xdata() == [0, 1]  # from one side to the other
    np.testing.assert_allclose(line.get_ydata(), [76, 76])
    (band,) = axes.patches
    spread = stdev([75, 77])
    np.testing.assert_allclose(
        [band.get_y(), band.get_y() + band.get_height()], [76 - spread, 76 + spread]
    )


def test_the_fan_ins_are_the_ticks():
    (axes,) = draw_accuracy(MEASURED, title="Digits").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
    assert axes.get_xlabel() == "fan-in K"
    assert axes.get_ylabel() == "test accuracy (%)"
    assert axes.get_title(loc="left") == "Digits"


@pytest.mark.parametrize("wiring", ["full", "sparse"])
def test_fixed_wirings_alone_have_no_fan_in_axis(wiring):
    (axes,) = draw_accuracy([Measurement(wiring, None, 0.5)]).axes
    assert axes.get_xlabel() == ""
    assert len(axes.get_xticks()) == 0
    assert [line.get_label() for line in axes.lines] == [f"{wiring} (n = 1)"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no measurement"):
        draw_accuracy([])
    with pytest.raises(ValueError, match="no wiring"):
        draw_active_by_depth({})


@pytest.mark.parametrize("draw", [draw_connectivity, lambda w: draw_active_by_depth({"a": w})])
def test_a_batch_of_architectures_is_refused(draw):
    wiring = skipping()
    with pytest.raises(ValueError, match=r"one architecture.*shape \(3,\)"):
        draw(wiring.with_active(wiring.active.expand(3, -1)))
