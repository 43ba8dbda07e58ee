"""`wiring inspect`: the counts, the table and the picture of a wiring."""

import json
import re
import xml.etree.ElementTree as ET
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import BASE, ROOT, Trained, network_of, process, succeed, wiring, write
from wiring_lightning.backbones import GatedHeads
from wiring_lightning.cli.example import costs_with
from wiring_lightning.nn import find_gates
from wiring_lightning.tasks import ClassificationTask

KEYS = {
    "params": {"total", "live"},
    "multiply_adds": {"total", "live"},
    "edges": {"candidate", "active"},
    "modules": {"total", "live"},
    "sequential_steps": {"1", "2", "4"},
}


@pytest.mark.slow
def test_inspect_writes_clean_json_to_stdout(tmp_path: Path) -> None:
    config = deepcopy(BASE)
    sizes = {"depth": 20, "width": 4, "cardinality": 8, "fan_in": 4, "num_classes": 100}
    config["model"]["init_args"]["backbone"]["init_args"] = sizes
    config["trainer"] |= {"accelerator": "cuda", "devices": 4, "strategy": "ddp"}  # not needed here
    file = write(config, tmp_path / "large.yaml")
    running = process(
        "-m", "wiring_lightning", "inspect", "--config", file, "--format=json", folder=tmp_path
    )
    out, err = running.communicate()
    assert running.returncode == 0, err
    summary = json.loads(out)
    for key, names in KEYS.items():
        assert names <= summary[key].keys()
        assert all(isinstance(value, int) for value in summary[key].values())
    assert summary["params"]["total"] == 283572
    assert summary["modules"]["total"] == 6 * 8
    # The stem to the first module, five times all pairs of branches, the last to the classifier.
    assert summary["edges"] == {"candidate": 8 + 5 * 64 + 8, "active": 8 + 5 * 8 * 4 + 8}
    assert [path.name for path in tmp_path.iterdir()] == ["large.yaml"]


def inspected(*arguments: str) -> dict[str, Any]:
    return json.loads(succeed("inspect", *arguments, "--format=json"))


def test_inspect_counts_what_compact_leaves(trained: Trained) -> None:
    summary = inspected("--config", trained.config, "--ckpt_path", trained.checkpoint)
    network = network_of(trained.checkpoint)
    compact = sum(parameter.numel() for parameter in network.compact().parameters())
    scores = sum(gate.scores.numel() for gate in find_gates(network).values())
    whole = sum(parameter.numel() for parameter in network.parameters()) - scores
    assert summary["params"] == {"total": whole, "live": compact}
    assert compact < whole
    branches = [block.branches for block in network.compact().blocks.values()]
    assert summary["modules"] == {"total": 18, "live": sum(branches)}
    assert summary["live_per_group"] == {
        f"module{i}": [count, 6] for i, count in enumerate(branches, start=1)
    }
    fresh = inspected("--config", trained.config)
    assert fresh["params"]["total"] == whole
    assert fresh != summary


def test_the_table_has_the_numbers_of_the_json(trained: Trained) -> None:
    given = ("--config", trained.config, "--ckpt_path", trained.checkpoint)
    summary, table = inspected(*given), succeed("inspect", *given)
    for key, label in (("params", "parameters"), ("multiply_adds", "multiply-adds"),
                       ("modules", "branches")):  # fmt: skip
        total, live = summary[key]["total"], summary[key]["live"]
        assert re.search(rf"^{label} +{total:,} -> {live:,} after pruning", table, re.MULTILINE)
    edges = summary["edges"]
    assert f"{edges['active']} active of {edges['candidate']} candidates" in table
    steps = summary["sequential_steps"]
    assert f"{steps['1']} on 1, {steps['2']} on 2, {steps['4']} on 4" in table
    assert steps["1"] >= steps["2"] >= steps["4"] > 0
    # And those of the report at the end of the run.
    assert all(line in trained.report for line in table.splitlines())


@pytest.mark.parametrize("name", ["wiring.png", "new folder/wiring.svg"])
def test_inspect_draws(trained: Trained, name: str, tmp_path: Path) -> None:
    given = ("--config", trained.config, "--ckpt_path", trained.checkpoint)
    summary = inspected(*given, "--figure", name)
    assert summary["params"]["live"] > 0  # nothing else on stdout
    content = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        assert content.startswith(b"\x89PNG")
    else:
        assert ET.fromstring(content).tag.endswith("svg")


def test_nothing_is_said_of_multiply_adds_that_nobody_asked_for() -> None:
    """An image of the data's size does not fit this network, which tells its costs itself."""
    run = wiring("inspect", "--config", str(ROOT / "configs/quickstart.yaml"))
    assert run.code == 0
    assert "cannot be counted" not in run.out + run.err


def test_a_network_with_a_wiring_is_not_sent_to_an_option_that_it_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = ClassificationTask(GatedHeads())
    assert costs_with(task, torch.zeros(1, 1, 8, 8), asked=False)
    said = capsys.readouterr().err
    assert "multiply-adds cannot be counted with an input [1, 1, 8, 8]" in said
    assert "--image_size" not in said
