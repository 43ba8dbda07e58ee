"""Heat maps hold the scores of gates, and the mean weights of what layers read."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.callbacks.monitored_fit import events, fit
from tests.plots.wirings import chain, learned, skipping
from wiring_lightning.backbones import ResNeXt, SparseNet, SparseResNet
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.plots import draw_feature_reuse, draw_scores

# Scores


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


def test_scores_without_any_active_edge_have_no_dots():
    wiring = skipping()
    figure = draw_scores(wiring.with_active(torch.zeros_like(wiring.active)))
    figure.canvas.draw()
    assert len(figure.axes[0].collections[0].get_offsets()) == 0


# Feature reuse


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 19, "growth": (2, 3, 4)},
        {"depth": 19, "growth": 2, "pattern": "dense"},
        {"depth": 34, "growth": 2, "bottleneck": True, "compression": 0.5, "base": 3},
    ],
)
def test_feature_reuse_is_the_mean_weight_of_each_source(arguments: dict[str, object]) -> None:
    network = SparseNet(**arguments)  # type: ignore[arg-type]
    growth = arguments["growth"]
    rates = growth if isinstance(growth, tuple) else (growth,) * 3
    dense, base, layers = "pattern" in arguments, arguments.get("base", 2), 5
    channels = 2 * rates[0]
    for number, (matrix, rate) in enumerate(zip(network.feature_reuse(), rates, strict=True), 1):
        widths = [channels] + [rate] * layers
        assert matrix.shape == (layers + 1, layers + 1)
        for target in range(1, layers + 2):
            allowed = range(1, 99) if dense else [base**k for k in range(9)]
            reads = [source for source in range(layers + 1) if target - source in allowed]
            if target <= layers:
                weight = network.get_parameter(
                    f"stages.stage{number}.{target - 1}.layers.0.conv.weight"
                )
            elif number < 3:
                weight = network.get_parameter(f"transitions.stage{number}.conv.weight")
            else:
                weight = network.classifier.weight
            start, means = 0, {}
            for source in reads:
                end = start + widths[source]
                means[source] = float(weight[:, start:end].detach().abs().mean())
                start = end
            assert start == weight.shape[1]
            for source in range(layers + 1):
                value = float(matrix[target - 1, source])
                if source in reads:
                    assert value == pytest.approx(means[source] / max(means.values()), rel=1e-5)
                else:
                    assert math.isnan(value)
        channels = weight.shape[0]


def test_a_heat_map_has_a_column_for_each_layer() -> None:
    stages = [torch.tensor([[1.0, math.nan], [0.25, 1.0]]), torch.ones(3, 3)]
    figure = draw_feature_reuse(stages, "title")
    first, second, _ = figure.axes
    (image,) = first.images
    np.testing.assert_array_equal(image.get_array().filled(-1), [[1, 0.25], [-1, 1]])
    assert image.get_clim() == (0, 1)
    assert image.get_extent() == [0.5, 2.5, 1.5, -0.5]
    assert second.images[0].get_extent() == [0.5, 3.5, 2.5, -0.5]
    with pytest.raises(ValueError, match="no stage"):
        draw_feature_reuse([])


def test_the_monitor_shows_it(tmp_path: Path) -> None:
    network = SparseNet(10, 2, num_classes=2, in_channels=1, image_size=8)
    fit(tmp_path, network, WiringMonitor(), epochs=1)
    tags = ["wiring/active_branches", "wiring/feature_reuse", "wiring/graph"]
    assert sorted(events(tmp_path).Tags()["images"]) == tags
    fit(tmp_path / "sum", SparseResNet(11, in_channels=1), WiringMonitor(), epochs=1)
    assert "wiring/feature_reuse" not in events(tmp_path / "sum").Tags()["images"]
