"""Pictures of graphs of channels."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection

from wiring_lightning.backbones import NeuralGraph, ResNeXt
from wiring_lightning.callbacks.pictures import draw_pictures
from wiring_lightning.plots import draw_channels, draw_degrees, is_channel_graph
from wiring_lightning.plots.channels import channel_columns, degrees
from wiring_lightning.wiring import Wiring


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
