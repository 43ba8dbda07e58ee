"""Pictures of graphs of channels."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection

from wiring_lightning.backbones import MobileNetV1DNW, NeuralGraph, ResNeXt
from wiring_lightning.callbacks.pictures import draw_pictures
from wiring_lightning.plots import draw_channels, draw_degrees, is_channel_graph
from wiring_lightning.plots.channels import (
    between_channels,
    channel_columns,
    degrees,
    strongest_edges,
)
from wiring_lightning.wiring import Wiring, make_wiring


def graph(dynamics: str = "static", **sizes: int) -> Wiring:
    torch.manual_seed(0)
    small = {"nodes": 60, "inputs": 8, "outputs": 10, "edges": 150} | sizes
    return NeuralGraph(dynamics, **small).wiring()  # type: ignore[arg-type]


@pytest.mark.parametrize("dynamics", ["static", "discrete"])
def test_every_edge_is_a_line_between_its_nodes_and_every_node_a_dot(dynamics: str) -> None:
    wiring = graph(dynamics)
    axes = draw_channels(wiring).axes[0]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    dead, live, ends = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert len(lines.get_segments()) == int(wiring.active.sum())
    assert len(ends.get_offsets()) == 2
    assert len(live.get_offsets()) == int(wiring.live_nodes.sum()) - 2
    assert len(live.get_offsets()) + len(dead.get_offsets()) == len(wiring.nodes) - 2
    assert len(dead.get_offsets()) > 0
    places = np.concatenate([c.get_offsets() for c in (dead, live, ends)])
    assert len(np.unique(places.round(6), axis=0)) == len(wiring.nodes)  # none upon another
    drawn = {tuple(point) for line in lines.get_segments() for point in line.round(6)}
    assert drawn <= {tuple(point) for point in places.round(6)}


def test_stronger_edges_are_more_opaque_within_a_group() -> None:
    wiring = graph()
    axes = draw_channels(wiring).axes[0]
    (lines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    alphas = lines.get_colors()[:, 3]
    assert 0 < alphas.min() < alphas.max() <= 0.7
    assert (np.diff(alphas) >= 0).all()  # the strongest are drawn last


def test_columns_follow_the_edges_and_split_groups_by_depth() -> None:
    wiring = graph()
    column = channel_columns(wiring)
    active = wiring.active
    assert (column[wiring.target[active]] > column[wiring.source[active]]).all()
    groups = wiring.nodes.group
    for number in range(int(groups.max())):
        assert column[groups == number].max() < column[groups == number + 1].min()


def test_many_edges_become_the_strongest() -> None:
    wiring = graph("discrete", nodes=300, edges=40_000)
    figure = draw_channels(wiring)
    (lines,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    drawn = len(lines.get_segments())
    assert drawn <= 3 * 8_000 + 20
    assert f"the strongest {drawn:,} drawn" in figure.axes[0].get_title(loc="left")


def two_scales(inside: float) -> Wiring:
    """A group of two columns; its own edges have scores of another scale than those into it."""
    names = ["image", *(f"a.node{i}" for i in range(100)), *(f"b.node{i}" for i in range(200)),
             "classifier"]  # fmt: skip
    first, near, far = torch.arange(1, 101), torch.arange(101, 201), torch.arange(201, 301)
    pairs = [torch.cartesian_prod(*ends) for ends in ((first, near), (first, far), (near, far))]
    scales = torch.tensor([1.0, 1.0, inside]).repeat_interleave(torch.tensor(list(map(len, pairs))))
    torch.manual_seed(0)
    source, target = torch.cat(pairs).T
    given = [(0, first), (far, 301)]
    starts, ends = (torch.cat([torch.as_tensor(g[i]).expand(100) for g in given]) for i in (0, 1))
    return make_wiring(
        names, torch.cat([starts, source]), torch.cat([ends, target]), True,
        score=torch.cat([torch.ones(200), scales * (0.5 + torch.rand(len(source)))]),
        group=[0, *[1] * 100, *[2] * 200, 3],
        edge_parameters=torch.cat([torch.zeros(200), torch.ones(len(source))]),
    )  # fmt: skip


@pytest.mark.parametrize("inside", [1.0, 0.3, 1e-3, 1e-6, 1e3])
def test_columns_are_connected_whatever_the_scales_of_their_edges(inside: float) -> None:
    wiring = two_scales(inside)
    column = channel_columns(wiring)
    edges, opacity = strongest_edges(wiring, column)
    pairs = {}
    for pair in [(1, 2), (1, 3), (2, 3)]:
        own = (column[wiring.source] == pair[0]) & (column[wiring.target] == pair[1])
        chosen = own[edges]
        count = int(chosen.sum())
        pairs[pair] = count, float(opacity[chosen].sum())
        strongest = wiring.score[own].topk(count).values
        assert torch.equal(wiring.score[edges[chosen]].sort(descending=True).values, strongest)
    assert [count for count, _ in pairs.values()] == [8_000, 4_000, 4_000]
    # Both kinds into the last column are about as dark.
    assert pairs[2, 3][1] == pytest.approx(pairs[1, 3][1], rel=0.1)
    assert len(edges) == 16_000 + 200


def test_a_few_edges_do_not_leave_room_unused() -> None:
    """What one column does not need, others get."""
    wiring = two_scales(1.0)
    few = (wiring.source > 100) & (wiring.source <= 200)
    active = wiring.active & (~few | (wiring.target - wiring.source == 100))
    wiring = wiring.with_active(active)
    column = channel_columns(wiring)
    edges, _ = strongest_edges(wiring, column)
    into = edges[column[wiring.target[edges]] == 3]
    assert len(into) == 8_000
    assert int(few[into].sum()) == int((few & active).sum()) == 100


def test_every_two_connected_columns_have_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network whose groups have several columns, of weights with several scales."""
    torch.manual_seed(0)
    wiring = MobileNetV1DNW(width=0.225, image_size=32).wiring()
    column = channel_columns(wiring)
    weighted = between_channels(wiring)

    def connected(edges: torch.Tensor) -> set[tuple[int, ...]]:
        ends = torch.stack([column[wiring.source[edges]], column[wiring.target[edges]]])
        return {tuple(pair) for pair in ends.unique(dim=1).T.tolist()}

    everything = connected((wiring.active & weighted).nonzero().flatten())
    for limit in (10, 40, 500):
        monkeypatch.setattr("wiring_lightning.plots.channels._MAX_PER_COLUMN", limit)
        edges, opacity = strongest_edges(wiring, column)
        edges, opacity = edges[weighted[edges]], opacity[weighted[edges]]
        assert connected(edges) == everything
        assert opacity.min() >= 0.03
        assert int(column[wiring.target[edges]].bincount().max()) == limit


def test_a_graph_without_weights_between_channels_is_drawn() -> None:
    names = ["image", "a.node0", "a.node1", "classifier"]
    wiring = make_wiring(names, [0, 0, 1, 2], [1, 2, 3, 3], True, group=[0, 1, 1, 2])
    edges, opacity = strongest_edges(wiring, channel_columns(wiring))
    assert edges.tolist() == [0, 1, 2, 3]
    assert opacity.tolist() == pytest.approx([0.1] * 4)


def test_degrees_are_those_of_the_edge_list() -> None:
    wiring = graph()
    received, sent = degrees(wiring)
    assert received.sum() == sent.sum() == 150
    names = wiring.nodes.names
    own = [i for i in range(len(wiring.source)) if wiring.parameters[i]]
    senders = [names[int(wiring.source[i])] for i in own]
    assert sorted(sent[sent > 0]) == sorted(map(senders.count, set(senders)))
    heights = [bar.get_height() for bar in draw_degrees(wiring).axes[1].patches]
    assert sum(heights) == len(sent)


def test_bars_stand_at_the_degrees_that_they_count() -> None:
    wiring = graph()
    for axes, degree in zip(draw_degrees(wiring).axes, degrees(wiring), strict=True):
        bars = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in axes.patches}
        counted = {float(value): int((degree == value).sum()) for value in range(degree.max() + 1)}
        assert {round(place, 6): height for place, height in bars.items()} == counted


def test_only_graphs_of_channels_get_these_pictures() -> None:
    network = NeuralGraph(nodes=60, inputs=8, outputs=10, edges=150)
    names = [name for name, _ in draw_pictures(network, network.wiring())]
    assert names == ["graph", "active_branches", "degrees"]
    plain = ResNeXt(depth=11, fan_in=2)
    assert "degrees" not in [name for name, _ in draw_pictures(plain, plain.wiring())]
    assert not is_channel_graph(plain.wiring())
