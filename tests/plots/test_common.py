"""What holds for every picture: one architecture, no global state, any format."""

import sys

import pytest

from tests.plots.wirings import skipping
from wiring_lightning.backbones import NeuralGraph, ResNetFabric
from wiring_lightning.plots import (
    draw_active_by_depth,
    draw_active_nodes,
    draw_architecture,
    draw_channels,
    draw_connectivity,
    draw_degrees,
    draw_fabric,
    draw_scores,
    draw_wiring,
    save_figure,
)


def channels():
    return NeuralGraph(nodes=60, inputs=8, outputs=10, edges=150).wiring()


@pytest.mark.parametrize(
    ("draw", "make"),
    [
        (draw_wiring, skipping),
        (draw_connectivity, skipping),
        (draw_active_nodes, skipping),
        (lambda wiring: draw_active_by_depth({"a": wiring}), skipping),
        (draw_scores, skipping),
        (draw_channels, channels),
        (draw_degrees, channels),
        (draw_fabric, ResNetFabric(width=1).wiring),
        *((draw_architecture, make) for make in (skipping, channels, ResNetFabric(1).wiring)),
    ],
)
def test_a_batch_of_architectures_is_refused(draw, make):
    wiring = make()
    batch = wiring.with_active(wiring.active.expand(3, -1))
    with pytest.raises(ValueError, match=r"one architecture.*shape \(3,\).*with_active"):
        draw(batch)


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
