"""The pictures of sparsely aggregated networks, and `wiring figure` for them."""

import math
from copy import deepcopy
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import wiring_lightning.plots
from tests.callbacks.monitored_fit import events
from tests.callbacks.monitored_fit import fit as monitored_fit
from tests.cli.commands import BASE, checkpoint_in, refused, succeed, write
from wiring_lightning.backbones import SparseNet, SparseResNet
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.plots import Efficiency, Scaling, draw_efficiency, draw_feature_reuse

pytestmark = pytest.mark.usefixtures("workplace")


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


# From run folders


def fit(root: Path, seed: int, **arguments: object) -> float:
    """Train a few steps; the test accuracy that the command line reports."""
    config = deepcopy(BASE)
    config["model"]["init_args"]["backbone"] = {
        "class_path": "SparseNet",
        "init_args": {"depth": 10, "growth": 4, "in_channels": 1, "image_size": 8, **arguments},
    }
    config["seed_everything"] = seed
    config["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(root), "callbacks": []}
    root.mkdir()
    out = succeed("fit", "--config", write(config, root / "written.yaml"))
    (line,) = [line for line in out.splitlines() if line.startswith("test acc ")]
    return 100 * float(line.split()[-1])


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a command has written."""
    figures: list[Figure] = []
    save = wiring_lightning.plots.save_figure

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(wiring_lightning.plots, "save_figure", keep)
    return figures


def test_figures_from_runs(tmp_path: Path, saved: list[Figure]) -> None:
    ones = [fit(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    dense = fit(tmp_path / "dense", 1, pattern="dense", growth=5)
    folders = [str(tmp_path / name) for name in ("run1", "run2", "dense")]
    saved.clear()  # `wiring fit` draws too
    succeed("figure", "efficiency", *folders)
    left = saved[0].axes[0]
    first, second = left.containers
    assert (first.get_label(), second.get_label()) == ("SparseNet, log", "SparseNet, dense")
    network = SparseNet(10, 4, in_channels=1)
    assert first[0].get_xdata().tolist() == [sum(p.numel() for p in network.parameters())]
    np.testing.assert_allclose(first[0].get_ydata().astype(float), [fmean(ones)], atol=0.01)
    np.testing.assert_allclose(second[0].get_ydata().astype(float), [dense], atol=0.01)
    assert left.get_title(loc="left") == "Digits"

    succeed("figure", "reuse", folders[0], "-o", "reuse.svg")
    folder = tmp_path / "run1" / "lightning_logs" / "version_0"
    content = torch.load(checkpoint_in(folder), weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("backbone."): content[name]
                             for name in content if name.startswith("backbone.")})  # fmt: skip
    expected = network.feature_reuse()[1].T
    drawn = saved[1].axes[1].images[0].get_array()
    np.testing.assert_allclose(drawn.filled(0), expected.nan_to_num(0), rtol=1e-6)


def test_scaling_needs_no_run(
    tmp_path: Path, saved: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wiring_lightning.figures._DEPTHS_CONCATENATED", (10, 40))
    monkeypatch.setattr("wiring_lightning.figures._DEPTHS_SUMMED", (29, 56))
    assert succeed("figure", "scaling") == "scaling.png\n"
    parameters = saved[0].axes[0]
    lines = {line.get_label(): line for line in parameters.lines}
    assert lines["SparseNet, k = 12"].get_xdata().tolist() == [10, 40]
    assert lines["DenseNet, k = 12"].get_ydata().tolist()[1] == 1_059_298
    assert lines["SparseNet [+]"].get_ydata().tolist()[1] == 590_426
    assert "draws no run, but 1 are given" in refused("figure", "scaling", str(tmp_path))
    assert "needs the folder of a RUN" in refused("figure", "reuse")
    assert "one run, but 2 are given" in refused("figure", "reuse", "one", "two")


def test_runs_that_a_figure_cannot_use_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "run", 1)
    config = tmp_path / "run" / "lightning_logs" / "version_0" / "config.yaml"
    other = tmp_path / "other" / "lightning_logs" / "version_0"
    other.mkdir(parents=True)
    changed = config.read_text().replace("data.Digits", "data.FashionMNIST")
    (other / "config.yaml").write_text(changed)
    said = refused("figure", "efficiency", str(tmp_path / "run"), str(tmp_path / "other"))
    assert "different data (Digits, FashionMNIST)" in said
