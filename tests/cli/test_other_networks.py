"""Every command refuses the checkpoint of another network, and says in which way it is another."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn

from tests.cli.commands import BASE, Trained, refused, succeed, write
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate

OTHERS = [
    ("fan_in=2", "fan_in is 1 there and 2 here"),
    ("identity=sum", "identity is mean there and sum here"),
    ("wiring=random", "wiring is learned there and random here"),
    ("wiring=real", "wiring is learned there and real here"),
    ("stem=mini_imagenet", "stem is cifar there and mini_imagenet here"),
]


@pytest.mark.parametrize(
    ("subcommand", "change", "reason"),
    [
        *(("fit", *other) for other in OTHERS),
        *((subcommand, *OTHERS[0]) for subcommand in ("validate", "test", "predict", "inspect")),
    ],
)
def test_commands_that_take_a_checkpoint_refuse_it(
    subcommand: str, change: str, reason: str, trained: Trained, tmp_path: Path
) -> None:
    given = ["--config", trained.config, "--ckpt_path", trained.checkpoint]
    said = refused(subcommand, *given, f"--model.backbone.{change}")
    assert f"{trained.checkpoint} belongs to another network than the config describes" in said
    assert reason in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["figure", "active"], ["figure", "connectivity"], ["pareto"]])
@pytest.mark.parametrize(("change", "reason"), OTHERS[1:3])
def test_commands_that_take_a_run_refuse_it(
    change: str, reason: str, command: list[str], trained: Trained, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.folder, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    arguments = config["model"]["init_args"]["backbone"]["init_args"]
    name, _, value = change.partition("=")
    arguments[name] = yaml.safe_load(value)
    write(config, run / "config.yaml")
    said = refused(*command, str(run))
    assert "belongs to another network" in said
    assert reason in said
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_does_not_change_the_function_may_differ(trained: Trained) -> None:
    given = ["--config", trained.config, "--ckpt_path", trained.checkpoint]
    succeed("inspect", *given, "--model.backbone.image_size=16")


def test_an_older_checkpoint_without_a_description_loads(trained: Trained, tmp_path: Path) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    content["state_dict"] = dict(content["state_dict"])
    torch.save(content, tmp_path / "old.ckpt")
    given = ["--config", trained.config, "--ckpt_path", str(tmp_path / "old.ckpt")]
    succeed("test", *given)
    succeed("test", *given, "--model.backbone.identity=sum")  # nobody can tell
    said = refused("test", *given, "--model.backbone.fan_in=2")
    assert "has a target with 1 connections there and 2 here" in said


class Stranger(LightningModule):
    """A module that has never heard of this package's tasks."""

    def __init__(self, fan_in: int = 2, identity: str = "mean", plain: bool = False) -> None:
        super().__init__()
        self.network: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        if not plain:
            self.gate = Gate(3, 4, fan_in)
            self.network = ResNeXt(11, 1, 4, 2, identity=identity, in_channels=1, image_size=8)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.network(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("plain", [True, False])
def test_modules_of_others_are_read_as_carefully(plain: bool, tmp_path: Path) -> None:
    config = deepcopy(BASE)
    stranger = "tests.cli.test_other_networks.Stranger"
    config["model"] = {"class_path": stranger, "init_args": {"plain": plain}}
    config["trainer"] |= {"limit_train_batches": 1, "limit_val_batches": 0, "logger": False}
    config["trainer"]["limit_test_batches"] = 1
    config["trainer"]["callbacks"] = [
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "kept", "filename": "one"}}
    ]
    file = write(config, tmp_path / "stranger.yaml")
    succeed("fit", "--config", file)
    given = ["test", "--config", file, "--ckpt_path=kept/one.ckpt"]
    succeed(*given)
    if not plain:
        assert "fan_in is 2 there and 3 here" in refused(*given, "--model.fan_in=3")
        assert "identity is mean there and sum here" in refused(*given, "--model.identity=sum")
