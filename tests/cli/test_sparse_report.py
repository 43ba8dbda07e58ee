"""What the command line says about a network that does not know its wiring."""

import json
import re
from copy import deepcopy
from pathlib import Path

import torch
import yaml

from tests.cli.commands import BASE, Trained, checkpoint_in, refused, succeed, weights_in, write


def config(tmp_path: Path) -> str:
    """A plain network, of which DNW keeps a tenth of every layer but the first."""
    changed = deepcopy(BASE)
    layers = {"class_path": "tests.cli.test_sparse_report.Plain"}
    changed["model"]["init_args"]["backbone"] = layers
    dnw = {"density": 0.1, "first_dense": True}
    changed["trainer"]["callbacks"] = [{"class_path": "DNW", "init_args": dnw}]
    changed["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(tmp_path)}
    changed["trainer"]["limit_test_batches"] = 1
    return write(changed, tmp_path / "plain.yaml")


class Plain(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv2d(1, 10, 3),
            torch.nn.Conv2d(10, 20, 3),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(20, 10),
        )


def test_the_report_and_inspect_say_how_sparse_it_is(tmp_path: Path) -> None:
    file = config(tmp_path)
    report = succeed("fit", "--config", file)
    expected = "2,090, 290 of them not zero (13.9%)"  # 90, and a tenth of 1,800 and 200
    assert re.search(rf"^weights +{re.escape(expected)}$", report, re.MULTILINE)
    assert "backbone.0 100.0%, backbone.1 10.0%, backbone.4 10.0%" in report
    checkpoint = checkpoint_in(tmp_path)
    shown = succeed("inspect", "--trust", "--config", file, "--ckpt_path", str(checkpoint))
    totals, table = shown.split("\n\n")
    assert all(line in report for line in totals.splitlines())
    # Of 8 x 8 pixels 6 x 6 are left, and then 4 x 4.
    dense, kept = 90 * 36 + 1800 * 16 + 200, 90 * 36 + 180 * 16 + 20
    assert f"multiply-adds  {dense:,} -> {kept:,} without weights that are zero (19.0%)" in totals
    rows = {line.split()[0]: line.split()[-7:] for line in table.splitlines()[1:]}
    assert list(rows) == ["backbone.0", "backbone.1", "backbone.4", "all"]
    assert rows["all"][:3] == ["290", "2,090", "13.9%"]
    assert rows["backbone.1"][:3] == ["180", "1,800", "10.0%"]
    assert rows["backbone.1"][-2:] == ["2,880", "28,800"]
    assert f"{dense:,} → {kept:,}" in succeed("table", "--trust", str(checkpoint.parents[1]))
    given = ("--trust", "--config", file, "--ckpt_path", str(checkpoint), "--format=json")
    summary = json.loads(succeed("inspect", *given))
    weights = weights_in(checkpoint)
    assert summary["params"] == {
        "total": sum(weight.numel() for weight in weights.values()),
        "nonzero": sum(int((weight != 0).sum()) for weight in weights.values()),
    }
    assert summary["multiply_adds"] == {"total": dense, "nonzero": kept}
    dead = (weights["backbone.1.weight"] == 0).flatten(2).all(2)
    assert summary["layers"]["backbone.1"] == {
        "shape": [20, 10, 3, 3],
        "total": 1800,
        "nonzero": 180,
        "density": 0.1,
        "dead_rows": int(dead.all(1).sum()),
        "dead_columns": int(dead.all(0).sum()),
        "multiply_adds": {"total": 28800, "nonzero": 2880},
    }
    picture = tmp_path / "layers.png"
    given = ("--trust", "--config", file, "--ckpt_path", str(checkpoint))
    other = succeed("inspect", *given, "--image_size=16", "--figure", str(picture))
    assert f"multiply-adds  {90 * 14 * 14 + 1800 * 12 * 12 + 200:,} ->" in other
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = refused("inspect", *given, "--image_size=3")
    assert "multiply-adds cannot be counted with an input [1, 1, 3, 3]" in said


def test_inspect_of_a_fresh_network_lists_no_layers(tmp_path: Path) -> None:
    shown = succeed("inspect", "--config", config(tmp_path), "--trust")
    assert "2,090 of them not zero (100.0%)" in shown
    assert "multiply-adds  32,240 -> 32,240 without weights that are zero (100.0%)" in shown
    assert "dead rows" not in shown


def test_a_network_with_a_wiring_has_the_size_that_it_was_told(trained: Trained) -> None:
    given = ("--config", trained.config, "--ckpt_path", trained.checkpoint)
    assert "leave --image_size out" in refused("inspect", *given, "--image_size=16")


def test_sparse_weights_of_a_network_with_a_wiring_cost_what_is_left(tmp_path: Path) -> None:
    changed = deepcopy(BASE)
    arguments = {"depth": 20, "wiring": "previous", "in_channels": 1, "image_size": 8}
    network = {"class_path": "ResNet", "init_args": arguments | {"stem": "cifar"}}
    changed["model"]["init_args"]["backbone"] = network
    changed["trainer"]["callbacks"] = [{"class_path": "RigL", "init_args": {"density": 0.2}}]
    changed["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(tmp_path)}
    changed["trainer"]["limit_test_batches"] = 1
    file = write(changed, tmp_path / "wired.yaml")
    succeed("fit", "--config", file)
    checkpoint = checkpoint_in(tmp_path)
    weights = {name: w for name, w in weights_in(checkpoint).items() if w.dim() > 1}
    # Every stage halves the sides of the maps; the channels tell which stage it is.
    pixels = [1 if w.dim() == 2 else {16: 64, 32: 16, 64: 4}[len(w)] for w in weights.values()]
    sides = list(zip(weights.values(), pixels, strict=True))
    dense = sum(weight.numel() * own for weight, own in sides)
    kept = sum(int(weight.count_nonzero()) * own for weight, own in sides)
    shown = succeed("inspect", "--config", file, "--ckpt_path", str(checkpoint))
    assert kept < dense / 2
    assert f"sparse multiply-adds  {dense:,} -> {kept:,} without weights that are zero" in shown


def test_a_size_that_is_not_known_leaves_the_multiply_adds_out(tmp_path: Path) -> None:
    changed = yaml.safe_load(Path(config(tmp_path)).read_text())
    del changed["data"]
    file = write(changed, tmp_path / "alone.yaml")
    assert "multiply-adds" not in succeed("inspect", "--trust", "--config", file)
    assert "multiply-adds" in succeed("inspect", "--trust", "--config", file, "--image_size=[8,6]")
