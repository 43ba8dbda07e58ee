"""A found architecture is a config and a checkpoint of its own, and training goes on from it."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch import nn

from tests.cli.commands import BASE, checkpoint_in, refused, succeed, weights_in, wiring, write
from wiring_lightning.backbones import ConvFabric
from wiring_lightning.cli.found import write_found
from wiring_lightning.tasks import ClassificationTask

SEARCH = deepcopy(BASE)
SEARCH["model"]["init_args"]["backbone"] = {
    "class_path": "ConvFabric",
    "init_args": {"columns": 3, "channels": 4, "scales": 2, "in_channels": 1, "image_size": 8},
}
SEARCH["model"]["init_args"]["optimizer"] = {
    "class_path": "torch.optim.SGD",
    "init_args": {"lr": 0.05},
}
SEARCH["data"]["init_args"]["batch_size"] = 16
SEARCH["trainer"] |= {"limit_train_batches": 4, "limit_test_batches": 1}
SEARCH["trainer"]["callbacks"] = [
    {"class_path": "BudgetedSearch", "init_args": {"budget": 1e4, "lr": 1.0}},
]
QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture(scope="module", name="search")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Config and checkpoint of a search; edges to a finer scale were found to be dispensable."""
    root = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        config = write(SEARCH, root / "search.yaml")
        succeed("fit", "--config", config, f"--trainer.default_root_dir={root}", QUIET)
    path = checkpoint_in(root)
    content = torch.load(path, weights_only=True)
    fabric = ConvFabric(3, 4, 2, image_size=8).fabric
    content["state_dict"]["backbone.fabric.gate.logits"].copy_(
        torch.tensor([-1.0 if name.endswith("up") else 1.0 for name in fabric.names])
    )
    torch.save(content, path)
    return str(path.parents[1] / "config.yaml"), str(path)


def cost(*arguments: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(succeed("inspect", *arguments, "--format=json"))
    return summary


@pytest.fixture(name="found")
def written(search: tuple[str, str], tmp_path: Path) -> Path:
    config, checkpoint = search
    command = ("inspect", "--config", config, "--ckpt_path", checkpoint, "--format=json")
    run = wiring(*command, f"--found={tmp_path / 'found'}")
    assert run.code == 0, run.err
    json.loads(run.out)  # still nothing but JSON
    assert run.err.splitlines()[-1] == f"wiring: wrote {tmp_path / 'found' / 'config.yaml'}"
    return tmp_path / "found"


def test_it_costs_what_was_live_in_the_search(search: tuple[str, str], found: Path) -> None:
    before = cost("--config", search[0], "--ckpt_path", search[1])
    after = cost("--config", str(found / "config.yaml"))
    assert before["params"]["live"] < before["params"]["total"]
    for key in ("params", "multiply_adds", "modules"):
        assert after[key]["total"] == after[key]["live"] == before[key]["live"]
    assert after["sequential_steps"] == before["sequential_steps"]


def test_it_computes_what_the_search_found(search: tuple[str, str], found: Path) -> None:
    def measured(config: str, checkpoint: str) -> list[str]:
        out = succeed("test", "--config", config, "--ckpt_path", checkpoint, QUIET)
        return [line for line in out.splitlines() if "test/" in line]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        before = measured(*search)
        assert len(before) == 3
        after = measured(str(found / "config.yaml"), str(found / "network.ckpt"))
        assert after == before


def test_training_goes_on_from_its_weights(found: Path, tmp_path: Path) -> None:
    """At a rate of zero the first weights are those of the file, or new ones without it."""
    still = "--config", str(found / "config.yaml"), "--model.optimizer.lr=0", QUIET
    succeed("fit", *still, f"--trainer.default_root_dir={tmp_path / 'on'}")
    before, after = weights_in(found / "network.ckpt"), weights_in(checkpoint_in(tmp_path / "on"))
    assert before.keys() == after.keys()
    weights = [name for name in before if name.endswith(("weight", "bias"))]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    scratch = f"--trainer.default_root_dir={tmp_path / 'new'}", "--trainer.callbacks.weights=null"
    succeed("fit", *still, *scratch)
    new = weights_in(checkpoint_in(tmp_path / "new"))
    assert not torch.equal(new["backbone.stem.0.weight"], before["backbone.stem.0.weight"])


def test_a_network_with_computed_weights_is_written_after_a_step(
    search: tuple[str, str], tmp_path: Path
) -> None:
    fabric = ConvFabric(2, 4, 2, in_channels=1, image_size=8)
    fabric.stem[0] = nn.utils.spectral_norm(fabric.stem[0])
    task = ClassificationTask(fabric)
    config = yaml.safe_load(Path(search[0]).read_text())
    task(torch.randn(2, 1, 8, 8)).sum().backward()
    write_found(task, config, tmp_path)
    weights, compact = weights_in(tmp_path / "network.ckpt"), fabric.compact().state_dict()
    assert {f"backbone.{name}" for name in compact} == {n for n in weights if "backbone" in n}
    assert all(torch.equal(weights[f"backbone.{name}"], compact[name]) for name in compact)
    assert task.backbone is fabric


def test_nothing_is_searched_any_more(found: Path) -> None:
    config = yaml.safe_load((found / "config.yaml").read_text())
    names = [part["class_path"].rpartition(".")[2] for part in config["trainer"]["callbacks"]]
    assert names == ["WarmStart"]
    assert not any(name.endswith("up") for name in config["model"]["init_args"]["backbone"]
                   ["init_args"]["architecture"])  # fmt: skip


def test_its_checkpoint_says_what_it_is_of(found: Path) -> None:
    given = ["--config", str(found / "config.yaml"), "--ckpt_path", str(found / "network.ckpt")]
    said = refused("test", *given, "--model.backbone.architecture=search", QUIET)
    assert "edges is not the same there as here" in said


def test_weights_of_another_network_are_refused(found: Path) -> None:
    message = refused(
        "fit", "--config", str(found / "config.yaml"), "--model.backbone.channels=8", QUIET
    )
    assert "another network" in message


def test_networks_without_a_fabric_are_refused(tmp_path: Path) -> None:
    config = write(BASE, tmp_path / "resnext.yaml")
    assert "holds no fabric" in wiring("inspect", "--config", config, "--found=x").err
