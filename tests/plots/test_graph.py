"""Pictures hold what the wiring holds: nodes, edges and scores are counted in the figures."""

import math
import sys

import networkx
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate
from wiring_lightning.plots import draw_active_nodes, draw_scores, draw_wiring, save_figure
from wiring_lightning.plots.layout import Layout
from wiring_lightning.plots.style import END, LEARNED, LIVE
from wiring_lightning.wiring import Wiring, make_wiring


def learned(**arguments) -> Wiring:
    """A ResNeXt whose scores are random."""
    network = ResNeXt(**arguments)
    for module in network.modules():
        if isinstance(module, Gate) and module.mode == "learned":
            module.scores.data.copy_(torch.rand_like(module.scores) ** 3)
    return network.wiring()


def chain(length: int) -> Wiring:
    """Blocks one after the other; the first also feeds the last but one."""
    names = ["in", *(f"block{i}" for i in range(1, length - 1)), "out"]
    source = [*range(length - 1), 1]
    target = [*range(1, length), length - 2]
    return make_wiring(names, source, target, [True] * length)


def skipping() -> Wiring:
    """Four blocks, each of which chooses among all earlier ones."""
    pairs = [(i, j) for j in range(1, 5) for i in range(j)]
    source, target = zip(*pairs, strict=True)
    active = [(i, j) in {(0, 1), (0, 2), (1, 3), (2, 4)} for i, j in pairs]
    score = [0.1 * (i + 1) for i, _ in pairs]
    names = ["in", "block1", "block2", "block3", "out"]
    return make_wiring(names, source, target, active, score=score, learnable=[True] * len(pairs))


WIRINGS = {
    "3 modules x 4 branches": lambda: learned(depth=11, cardinality=4, fan_in=1),
    "9 modules x 8 branches": lambda: learned(depth=29, cardinality=8, fan_in=2),
    "fixed random": lambda: learned(depth=20, fan_in=1, wiring="random"),
    "full": lambda: learned(depth=20, fan_in=8, wiring="full"),
    "real": lambda: learned(depth=20, fan_in=4, wiring="real"),
    "chain": lambda: chain(10),
    "skipping": skipping,
}


@pytest.fixture(params=WIRINGS, name="wiring")
def any_wiring(request) -> Wiring:
    return WIRINGS[request.param]()


def squares(figure: Figure, kind: str) -> PathCollection | None:
    found = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    return next((c for c in found if str(c.get_label()).startswith(kind)), None)


def lines(figure: Figure, kind: str) -> LineCollection | None:
    found = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    return next((c for c in found if str(c.get_label()).startswith(kind)), None)


def live_nodes(wiring: Wiring) -> set[str]:
    """Nodes on an active path, by networkx."""
    graph = wiring.to_networkx()
    graph.remove_edges_from([(u, v) for u, v, on in graph.edges(data="active") if not on])
    first, last = wiring.nodes.names[0], wiring.nodes.names[-1]
    reached = networkx.descendants(graph, first) | {first}
    return reached & (networkx.ancestors(graph, last) | {last})


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
    wiring = wiring.with_active(torch.zeros_like(wiring.active))
    for draw in (draw_wiring, draw_active_nodes, draw_scores):
        draw(wiring).canvas.draw()
    assert len(squares(draw_wiring(wiring), "pruned").get_offsets()) == 3


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


def test_score_panels_hold_scores_and_mark_active_edges():
    torch.manual_seed(1)
    network = ResNeXt(depth=20, cardinality=4, fan_in=2)
    for name, gate in network.connections.items():
        gate.scores.data.copy_(torch.rand_like(gate.scores) * (0.9 if name == "module3" else 0.5))
    figure = draw_scores(network.wiring(), title="scores")
    panels = figure.axes[:-1]  # the last one is the colour bar
    assert [axes.get_title() for axes in panels] == list(network.connections)
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    top = max(float(gate.scores.detach().max()) for gate in network.connections.values())
    assert panels[0].images[0].get_clim() == (0, pytest.approx(top))
    for axes, gate in zip(panels, network.connections.values(), strict=True):
        assert np.array_equal(axes.images[0].get_array(), gate.scores.detach().numpy())
        dots = torch.zeros(4, 4, dtype=torch.bool)
        for column, row in axes.collections[0].get_offsets():
            dots[int(row), int(column)] = True
        assert torch.equal(dots, gate.best)


def test_blocks_of_one_node_share_a_ragged_panel():
    figure = draw_scores(skipping())
    assert len(figure.axes) == 2
    image = figure.axes[0].images[0].get_array()
    assert np.ma.getmaskarray(image).tolist() == [[j > i for j in range(4)] for i in range(4)]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "block1",
        "block2",
        "block3",
        "out",
    ]


def test_a_large_grid_of_panels_leaves_no_empty_axes():
    figure = draw_scores(learned(depth=56, cardinality=2, fan_in=1))
    assert len(figure.axes) == 17 + 1


def test_a_wiring_without_scores_says_so():
    figure = draw_scores(chain(5))
    assert figure.texts[0].get_text() == "This wiring has no learnable edges."


@pytest.mark.parametrize("draw", [draw_wiring, draw_active_nodes, draw_scores])
def test_a_batch_of_architectures_is_refused(draw):
    wiring = skipping()
    with pytest.raises(ValueError, match=r"one architecture.*shape \(3,\).*with_active"):
        draw(wiring.with_active(wiring.active.expand(3, -1)))


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_are_saved_into_new_folders(tmp_path, ending):
    path = tmp_path / "new" / "folder" / f"wiring.{ending}"
    save_figure(draw_wiring(skipping()), path)
    start = path.read_bytes()[:5]
    assert {"png": b"\x89PNG", "pdf": b"%PDF-", "svg": b"<?xml"}[ending] in start


def test_drawing_leaves_no_global_state():
    before = "matplotlib.pyplot" in sys.modules
    draw_wiring(skipping())
    assert ("matplotlib.pyplot" in sys.modules) == before
