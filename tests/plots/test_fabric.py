"""The picture of a fabric shows what evaluation mode uses, in the right places."""

import matplotlib.colors
import networkx
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from wiring_lightning.backbones import ConvFabric, ResNetFabric, ResNeXt
from wiring_lightning.callbacks.pictures import draw_pictures
from wiring_lightning.plots import draw_architecture, draw_fabric
from wiring_lightning.plots.fabric import lay_out

NETWORKS = {
    "grid": lambda: ConvFabric(columns=3, channels=2, scales=3, image_size=8),
    "segmentation": lambda: ConvFabric(3, 2, 4, 2, "segmentation", image_size=8),
    "stages": lambda: ResNetFabric(width=3, image_size=8),
    "wide stages": lambda: ResNetFabric(width=10, image_size=8),
}


@pytest.fixture(params=NETWORKS, name="network")
def searched(request):
    """A fabric with random probabilities; its likeliest architecture has dead ends."""
    torch.manual_seed(1)
    network = NETWORKS[request.param]()
    network.gate.logits.data.normal_(1.2, 1.5)
    assert network.architecture_names
    return network


def lines(figure: Figure, state: str) -> list[LineCollection]:
    found = [part for part in figure.axes[0].collections if isinstance(part, LineCollection)]
    return [part for part in found if part.get_gid() == state]


def drawn(figure: Figure, state: str) -> int:
    return sum(len(part.get_segments()) for part in lines(figure, state))


def test_every_edge_is_one_line(network) -> None:
    figure = draw_fabric(network.wiring())
    edges = len(network.fabric.names) + 1  # and the one to the classifier
    kept = len(network.architecture_names) + 1
    assert (drawn(figure, "kept"), drawn(figure, "removed")) == (kept, edges - kept)
    assert figure.texts[0].get_text().startswith(f"{kept - 1} of {edges - 1} edges kept, ")


def test_kept_lines_are_solid_and_as_dark_as_they_are_likely(network) -> None:
    figure = draw_fabric(network.wiring())
    probability = dict(zip(network.fabric.names, network.gate.probabilities.tolist(), strict=True))
    expected = sorted([*(probability[name] for name in network.architecture_names), 1.0])
    opacity = sorted(np.concatenate([part.get_colors()[:, 3] for part in lines(figure, "kept")]))
    assert opacity == pytest.approx(expected, abs=1e-6)
    assert all(part.get_linestyle() == [(0.0, None)] for part in lines(figure, "kept"))
    for part in lines(figure, "removed"):
        assert part.get_linestyle() != [(0.0, None)]
        assert (part.get_colors()[:, 3] < 0.5).all()


def test_live_sums_are_those_that_networkx_finds(network) -> None:
    graph = networkx.DiGraph()
    best = network.fabric.best.tolist()
    ends = zip(network.fabric.source, network.fabric.target, best, strict=True)
    graph.add_nodes_from(range(len(network.fabric.spaces)))
    graph.add_edges_from((source, target) for source, target, there in ends if there)
    last = len(network.fabric.spaces) - 1
    live = (networkx.descendants(graph, 0) & networkx.ancestors(graph, last)) | {last}
    figure = draw_fabric(network.wiring())
    places = lay_out(network.wiring())
    assert places is not None
    squares = {
        part.get_label(): part
        for part in figure.axes[0].collections
        if isinstance(part, PathCollection)
    }
    expected = (places.places * places.pitch)[sorted(live)]
    np.testing.assert_allclose(squares["live sum"].get_offsets(), expected)
    if len(live) < last:
        white = matplotlib.colors.to_rgba("white")
        assert tuple(squares["dead sum"].get_facecolors()[0]) == white


def test_states_have_places_of_their_own(network) -> None:
    layout = lay_out(network.wiring())
    assert layout is not None
    assert len({tuple(place) for place in layout.places.tolist()}) == len(layout.places)
    assert len(layout.places) == len(network.fabric.spaces) + 1


@pytest.mark.parametrize("width", [3, 18])
def test_stages_read_what_is_beside_or_below_them(width: int) -> None:
    """But for the state before a stage, which the last position reads across a whole stage."""
    network = ResNetFabric(width)
    layout = lay_out(network.wiring())
    assert layout is not None
    for source, target in zip(network.fabric.source, network.fabric.target, strict=True):
        across, up = layout.places[target] - layout.places[source]
        assert abs(across) <= 1
        assert up in ((0, -1) if source > width or target <= 2 * width else (0, -1, -2))


def test_a_compact_fabric_has_nothing_removed(network) -> None:
    figure = draw_fabric(network.compact().wiring())
    assert drawn(figure, "removed") == 0
    assert drawn(figure, "kept") == len(network.architecture_names) + 1


def test_the_monitor_and_inspect_draw_fabrics_as_fabrics(network) -> None:
    wiring = network.wiring()
    assert [name for name, _ in draw_pictures(network, wiring)] == ["graph"]
    assert lines(draw_architecture(wiring), "kept")
    assert not lines(draw_architecture(ResNeXt(depth=11).wiring()), "kept")


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="draw_wiring"):
        draw_fabric(ResNeXt(depth=11).wiring())
