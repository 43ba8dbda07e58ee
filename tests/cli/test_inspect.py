"""`wiring inspect`: the counts, the table and the picture of a wiring."""

import json
import re
import xml.etree.ElementTree as ET
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import (
    BASE,
    ROOT,
    Trained,
    network_of,
    process,
    refused,
    succeed,
    wiring,
    write,
)
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


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.max_epochs", "-1"),
        ("--trainer.max_steps", "-1", "--trainer.gradient_clip_val", "-.5"),
        ("--model.lr_interval=step",),
        ("--model.lr_interval", "step", "--model.lr_warmup", "3", "--model.lr_monitor=val/loss"),
        ("--model.compile=true",),
        ("--model.init_args.optimizer=SGD", "--model.init_args.optimizer.lr", "0.1"),
    ],
)
def test_options_of_a_training_are_accepted(options: tuple[str, ...], base: str) -> None:
    assert inspected("--config", base, *options) == inspected("--config", base)


OTHER = "model: {init_args: {backbone: {class_path: ResNet, init_args: {depth: 14}}}}"


@pytest.mark.parametrize(
    "second",
    [
        "model: {init_args: {backbone: {init_args: {fan_in: 3}}}}",
        "model: {init_args: {backbone: {init_args: {width: 3}}, lr_warmup: 2}}",
        "model: {init_args: {loss: cross_entropy}}",
        "model: {class_path: ClassificationTask}",
        "model: ClassificationTask",
        "model: {init_args: {backbone: {class_path: ResNeXt, init_args: {cardinality: 4}}}}",
        OTHER,
        "trainer: {max_epochs: 2}",
    ],
)
def test_a_second_config_may_say_a_part(second: str, base: str, tmp_path: Path) -> None:
    (tmp_path / "second.yaml").write_text(second)
    configs = ("--config", base, "--config", "second.yaml")
    (tmp_path / "whole.yaml").write_text(succeed("fit", *configs, "--print_config"))
    assert inspected(*configs) == inspected("--config", "whole.yaml")


def test_a_third_config_changes_what_the_second_names(base: str, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(OTHER)
    (tmp_path / "c.yaml").write_text("model: {init_args: {backbone: {init_args: {fan_in: 3}}}}")
    configs = ("--config", base, "--config", "b.yaml", "--config=c.yaml")
    (tmp_path / "whole.yaml").write_text(succeed("fit", *configs, "--print_config"))
    assert inspected(*configs) == inspected("--config", "whole.yaml")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("model: {init_args: {backbone: {class_path: os.system}}}", "os.system, which is no"),
        ("model: {class_path: os.system}", "os.system, which is no task of this package"),
        ("model: {init_args: {backbone: {fan_in: 3}}}", "names no class"),
        ("model: {backbone: {init_args: {fan_in: 3}}}", "names no class"),
        ("model: {init_args: {backbone: {init_args: {fanin: 3}}}}", "has no option 'fanin'"),
    ],
)
def test_a_second_config_is_looked_at_as_the_first(
    second: str, said: str, base: str, tmp_path: Path
) -> None:
    (tmp_path / "second.yaml").write_text(second)
    assert said in refused("inspect", "--config", base, "--config", "second.yaml")


def test_a_part_of_a_config_alone_names_no_class(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("model: {init_args: {backbone: {init_args: {fan_in: 3}}}}")
    assert "model names no class" in refused("inspect", "--config", "part.yaml")


def test_a_second_config_may_say_a_part_of_the_data(tmp_path: Path) -> None:
    """The data tell the size of the images, with which a network is measured that does not."""
    config = deepcopy(BASE)
    network = {"class_path": "torchvision:squeezenet1_1", "init_args": {"in_chans": 1}}
    config["model"]["init_args"]["backbone"] = network
    config["data"] = {"class_path": "ImageFolder", "init_args": {"root": "r", "image_size": 48}}
    file = write(config, tmp_path / "base.yaml")
    (tmp_path / "second.yaml").write_text("data: {init_args: {batch_size: 2}}")
    both = inspected("--config", file, "--config", "second.yaml")
    assert both == inspected("--config", file, "--image_size=48")
    assert both["multiply_adds"] != inspected("--config", file, "--image_size=64")["multiply_adds"]
