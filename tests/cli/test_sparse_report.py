"""What the command line says about a network that does not know its wiring."""

import json
import re
from copy import deepcopy
from pathlib import Path

import torch

from tests.cli.commands import BASE, checkpoint_in, succeed, weights_in, write


def config(tmp_path: Path) -> str:
    """A plain network, of which DNW keeps a tenth of every layer but the first."""
    changed = deepcopy(BASE)
    layers = {"class_path": "tests.cli.test_sparse_report.Plain"}
    changed["model"]["init_args"]["backbone"] = layers
    dnw = {"density": 0.1, "first_dense": True}
    changed["trainer"]["callbacks"] = [{"class_path": "DNW", "init_args": dnw}]
    changed["trainer"] |= {"limit_train_batches": 3, "default_root_dir": str(tmp_path)}
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
    assert all(line in report for line in shown.splitlines())
    given = ("--trust", "--config", file, "--ckpt_path", str(checkpoint), "--format=json")
    summary = json.loads(succeed("inspect", *given))
    weights = weights_in(checkpoint)
    assert summary["params"] == {
        "total": sum(weight.numel() for weight in weights.values()),
        "nonzero": sum(int((weight != 0).sum()) for weight in weights.values()),
    }
    assert summary["layers"]["backbone.1"] == {"total": 1800, "nonzero": 180}


def test_inspect_of_a_fresh_network_lists_no_layers(tmp_path: Path) -> None:
    shown = succeed("inspect", "--config", config(tmp_path), "--trust")
    assert "2,090 of them not zero (100.0%)" in shown
    assert "by layer" not in shown
