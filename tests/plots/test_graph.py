"""Pictures hold what the wiring holds: nodes and edges are counted in the figures."""

import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure

from tests.plots.wirings import chain, learned, live_nodes, skipping
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.plots import draw_connectivity, draw_side_by_side, draw_wiring
from wiring_lightning.plots.graph import fixed_wiring
from wiring_lightning.plots.rows import Layout
from wiring_lightning.plots.style import END, LEARNED, LIVE
from wiring_lightning.wiring import make_wiring


def squares(figure: Figure, kind: str) -> PathCollection | None:
    found = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    return next((c for c in found if str(c.get_label()).startswith(kind)), None)


def lines(figure: Figure, kind: str) -> LineCollection | None:
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    return next((c for c in found if str(c.get_label()).startswith(kind)), None)


def test_every_node_is_drawn_as_what_it_is(wiring):
    figure = draw_wiring(wiring)
    ends = {wiring.nodes.names[0], wiring.nodes.names[-1]}
    live = live_nodes(wiring) - ends
    pruned = set(wiring.nodes.names) - live - ends
    for kind, names in (("input", ends), ("live", live), ("pruned", pruned)):
        drawn = squares(figure, kind)
        assert (0 if drawn is None else len(drawn.get_offsets())) == len(names)


def test_live_squares_are_filled_and_pruned_ones_hollow_and_dashed():
    figure = draw_wiring(learned(depth=11, cardinality=4, fan_in=1))
    live, pruned, ends = (squares(figure, kind) for kind in ("live", "pruned", "input"))
    assert tuple(live.get_facecolor()[0]) == to_rgba(LIVE)
    assert tuple(pruned.get_facecolor()[0]) == to_rgba("white")
    assert tuple(ends.get_facecolor()[0]) == to_rgba(END)
    assert live.get_linestyle()[0][1] is None
    assert pruned.get_linestyle()[0][1] is not None


def test_every_active_edge_is_drawn_once(wiring):
    figure = draw_wiring(wiring)
    live = wiring.live_edges
    expected = {
        "learned": live & wiring.learnable,
        "given": live & ~wiring.learnable,
        "edge of a pruned": wiring.active & ~live,
    }
    for kind, edges in expected.items():
        drawn = lines(figure, kind)
        assert (0 if drawn is None else len(drawn.get_segments())) == int(edges.sum())


def test_lines_join_source_and_target():
    wiring = learned(depth=20, fan_in=2)
    layout, figure = Layout(wiring), draw_wiring(wiring)
    kept = wiring.live_edges & wiring.learnable
    ends = layout.nodes[wiring.source[kept]], layout.nodes[wiring.target[kept]]
    expected = {
        (round(a[0], 6), round(b[0], 6), round(b[1], 1)) for a, b in zip(*ends, strict=True)
    }
    half = layout.node / 144
    drawn = {
        (round(line[0][0], 6), round(line[-1][0], 6), round(line[-1][1] - half, 1))
        for line in lines(figure, "learned").get_segments()
    }
    assert drawn == expected
    assert all(line[0][1] > line[-1][1] for line in lines(figure, "learned").get_segments())


def test_higher_scores_are_darker_and_on_top():
    wiring = make_wiring(
        ["in", "m1.branch0", "m1.branch1", "m1.branch2", "out"],
        source=[0, 0, 0, 1, 2, 3],
        target=[1, 2, 3, 4, 4, 4],
        active=[True] * 6,
        score=[0.3, 0.6, 0.15, 1, 1, 1],
        learnable=[True] * 3 + [False] * 3,
        group=[0, 1, 1, 1, 2],
    )
    drawn = lines(draw_wiring(wiring), "learned")
    opacity = drawn.get_colors()[:, 3]
    places = [line[-1][0] for line in drawn.get_segments()]
    assert np.allclose(opacity, [0.25 + 0.75 * share for share in (0.25, 0.5, 1.0)])
    assert np.argsort(places).tolist() == [1, 2, 0]  # ends at branch 2, then 0, then 1


def test_given_edges_are_thinner_and_greyer_than_learned_ones():
    figure = draw_wiring(learned(depth=20, fan_in=4))
    given, own = lines(figure, "given"), lines(figure, "learned")
    assert given.get_linewidth()[0] < own.get_linewidth()[0]
    assert tuple(own.get_colors()[-1]) == to_rgba(LEARNED)
    assert sum(given.get_colors()[0, :3]) > sum(own.get_colors()[0, :3])


def test_rows_run_from_the_input_down_and_are_labelled():
    wiring = learned(depth=11, cardinality=4, fan_in=2)
    labels = {text.get_text(): text.get_position()[1] for text in draw_wiring(wiring).axes[0].texts}
    assert list(labels) == ["stem", "module1", "module2", "module3", "classifier"]
    assert sorted(labels.values(), reverse=True) == list(labels.values())


def test_the_caption_counts_branches_and_edges():
    wiring = learned(depth=29, fan_in=1)
    live = int(wiring.live_nodes.sum()) - 2
    caption = f"{live} of 72 branches live, 64 of 512 learnable edges active"
    assert [text.get_text() for text in draw_wiring(wiring, title="K = 1").texts] == [
        "K = 1",
        caption,
    ]
    full = learned(depth=20, fan_in=8, wiring="full")
    assert (
        draw_wiring(full).texts[0].get_text() == "48 of 48 branches live, 336 of 336 edges active"
    )


def test_edges_that_skip_rows_are_bent():
    figure = draw_wiring(skipping())
    for line in lines(figure, "learned").get_segments():
        start, end = line[0], line[-1]
        way = end - start
        off = np.abs(way[0] * (line - start)[:, 1] - way[1] * (line - start)[:, 0]).max()
        straight = math.isclose(off, 0, abs_tol=1e-9)
        assert straight == (abs(way[1]) < 0.8)  # neighbours are at most 0.8 inches apart


@pytest.mark.parametrize("length", [61, 2000])
def test_a_long_chain_winds_through_columns(length):
    wiring = chain(length)
    layout, figure = Layout(wiring), draw_wiring(wiring)
    assert layout.columns > 1
    assert max(figure.get_size_inches()) < 20
    assert len(np.unique(layout.nodes.round(6), axis=0)) == length
    steps = np.linalg.norm(np.diff(layout.nodes, axis=0), axis=1)
    assert steps.max() < 2.01 * steps.min()  # neighbours stay neighbours where a column ends
    assert len(figure.axes[0].texts) <= layout.columns


def test_all_rows_of_the_largest_network_fit_on_a_page():
    wiring = learned(depth=101, stem="imagenet", cardinality=32, fan_in=1)
    figure = draw_wiring(wiring)
    assert max(figure.get_size_inches()) < 17
    assert len(squares(figure, "live").get_offsets()) == len(live_nodes(wiring)) - 2
    assert len(figure.axes[0].texts) == 35


def test_a_wiring_without_any_active_edge_can_be_drawn():
    wiring = skipping()
    figure = draw_wiring(wiring.with_active(torch.zeros_like(wiring.active)))
    figure.canvas.draw()
    assert len(squares(figure, "pruned").get_offsets()) == 3


# Fixed and learned connectivity, side by side


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


def test_two_wirings_side_by_side_have_the_same_nodes():
    first = learned(depth=11, cardinality=4, fan_in=1)
    other = first.with_active(torch.ones_like(first.active))
    figure = draw_side_by_side(first, other, ("few", "all"))
    left, right = (
        sum(
            len(c.get_segments()) for c in side.axes[0].collections if isinstance(c, LineCollection)
        )
        for side in figure.subfigs
    )
    assert (left, right) == (int(first.active.sum()), len(first.active))
    with pytest.raises(ValueError, match="only if their nodes are the same"):
        draw_side_by_side(first, learned(depth=11, cardinality=5, fan_in=1))
