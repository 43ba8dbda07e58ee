"""The pictures of sparsely aggregated networks."""

import math
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import torch

from tests.callbacks.monitored_fit import events
from tests.callbacks.monitored_fit import fit as monitored_fit
from wiring_lightning.backbones import SparseNet, SparseResNet
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.plots import Efficiency, Scaling, draw_efficiency, draw_feature_reuse

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
    monitored_fit(tmp_path, network, WiringMonitor(), epochs=1)
    tags = ["wiring/active_branches", "wiring/feature_reuse", "wiring/graph"]
    assert sorted(events(tmp_path).Tags()["images"]) == tags
    monitored_fit(tmp_path / "sum", SparseResNet(11, in_channels=1), WiringMonitor(), epochs=1)
    assert "wiring/feature_reuse" not in events(tmp_path / "sum").Tags()["images"]


# Scaling and efficiency


def test_scaling_measures_links_and_paths_as_table_1_says() -> None:
    """In a stage of n layers the last one reads 1 + floor(log2(n + 1)), dense ones n + 1."""
    for depth in (40, 100, 202):
        layers = (depth - 4) // 3
        with torch.device("meta"):
            sparse, dense = SparseNet(depth, 4), SparseNet(depth, 4, pattern="dense")
        few = Scaling.of(depth, sparse.wiring())
        many = Scaling.of(depth, dense.wiring())
        assert few.links == 1 + int(math.log2(layers + 1))
        assert many.links == layers + 1
        # Fewest powers of two that a distance is the sum of: its ones in binary. A way out of the
        # first stage is that of an output to what follows, and twice that of an input.
        ones = [bin(distance).count("1") for distance in range(1, layers + 2)]
        assert few.path == max(ones) + 2 * ones[layers]
        assert many.path == 3
        plain = Scaling.of(56, SparseResNet(56, base=56).wiring())
        assert (plain.links, plain.path) == (1, 3 * 7 + 1)


def test_efficiency_is_drawn_over_both_sizes_with_deviations() -> None:
    runs = [
        Efficiency("a", 100, 9000, 0.5),
        Efficiency("a", 300, 1000, 0.7),
        Efficiency("a", 100, 9000, 0.6),
        Efficiency("b", 200, 2000, 0.4),
    ]
    left, right = draw_efficiency(runs, "title").axes
    (line, _, (bars,)), (other, _, _) = left.containers
    assert line.get_xdata().tolist() == [100, 300]
    np.testing.assert_allclose(line.get_ydata().astype(float), [55, 70])
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(stdev([50, 60]))
    assert other.get_xdata().tolist() == [200]
    assert right.containers[0][0].get_xdata().tolist() == [1000, 9000]
    heights = right.containers[0][0].get_ydata().astype(float)
    np.testing.assert_allclose(heights, [70, 55])
    with pytest.raises(ValueError, match="no network"):
        draw_efficiency([])
