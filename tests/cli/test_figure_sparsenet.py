"""`wiring figure` for sparsely aggregated networks."""

from copy import deepcopy
from pathlib import Path
from shutil import copytree
from statistics import fmean

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tests.cli.commands import BASE, checkpoint_in, refused, succeed, wiring, write
from wiring_lightning.backbones import SparseNet


def fit(root: Path, seed: int, **arguments: object) -> float:
    """Train a few steps; the test accuracy that the command line reports."""
    config = deepcopy(BASE)
    config["model"]["init_args"]["backbone"] = {
        "class_path": "SparseNet",
        "init_args": {"depth": 10, "growth": 4, "in_channels": 1, "image_size": 8, **arguments},
    }
    config["seed_everything"] = seed
    config["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(root), "callbacks": []}
    config["trainer"] |= {"limit_test_batches": 1, "enable_progress_bar": False}
    root.mkdir()
    out = succeed("fit", "--config", write(config, root / "written.yaml"))
    (line,) = [line for line in out.splitlines() if line.startswith("test acc ")]
    return 100 * float(line.split()[-1])


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

    other = Path(copytree(folder, tmp_path / "other" / "lightning_logs" / "version_0"))
    changed = (folder / "config.yaml").read_text().replace("data.Digits", "data.FashionMNIST")
    (other / "config.yaml").write_text(changed)
    both = "figure", "efficiency", folders[0], str(tmp_path / "other")
    assert "differ in data (Digits and FashionMNIST)" in refused(*both)
    mixed = wiring(*both, "--mix", "-o", "mixed.png")
    assert (mixed.code, "runs differ in data (Digits and FashionMNIST)" in mixed.err) == (0, True)


def test_scaling_needs_no_run(
    tmp_path: Path, saved: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wiring_lightning.cli.kinds._DEPTHS_CONCATENATED", (10, 40))
    monkeypatch.setattr("wiring_lightning.cli.kinds._DEPTHS_SUMMED", (29, 56))
    assert succeed("figure", "scaling") == "scaling.png\n"
    parameters = saved[0].axes[0]
    lines = {line.get_label(): line for line in parameters.lines}
    assert lines["SparseNet, k = 12"].get_xdata().tolist() == [10, 40]
    assert lines["DenseNet, k = 12"].get_ydata().tolist()[1] == 1_059_298
    assert lines["SparseNet [+]"].get_ydata().tolist()[1] == 590_426
    assert "draws no run, but 1 are given" in refused("figure", "scaling", str(tmp_path))
    assert "needs the folder of a RUN" in refused("figure", "reuse")
    assert "one run, but 2 are given" in refused("figure", "reuse", "one", "two")
