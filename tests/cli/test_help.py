"""What the command line says of itself, and how it reads its config."""

import inspect
import re
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
import yaml
from jsonargparse import _typehints
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn

import wiring_lightning.backbones
import wiring_lightning.callbacks
import wiring_lightning.cli
import wiring_lightning.data
import wiring_lightning.tasks
from tests.cli.commands import process, refused, succeed
from tests.source import imported_names
from wiring_lightning.callbacks import BudgetedSearch, MaskConnect, Phase, PhaseSchedule
from wiring_lightning.cli.commands import FILES, LIGHTNING, SUBCOMMANDS
from wiring_lightning.cli.short_names import own_classes_preferred

BACKBONE = "--model.backbone."


@pytest.mark.parametrize("subcommand", ["", *FILES])
def test_help_is_fast_and_does_not_load_torch(subcommand: str, tmp_path: Path) -> None:
    code = f"""
import sys
from wiring_lightning.cli import main
try:
    main([*{subcommand!r}.split(), "--help"])
finally:
    assert not {{"torch", "lightning", "matplotlib"}} & sys.modules.keys()
"""
    running = process("-c", code, folder=tmp_path)
    out, err = running.communicate()
    assert running.returncode == 0, err
    assert out.startswith(f"usage: wiring {subcommand}")


def test_help_names_every_subcommand() -> None:
    out = succeed("--help")
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in SUBCOMMANDS)


@pytest.mark.parametrize("subcommand", FILES)
def test_a_subcommand_is_a_file_that_knows_no_other(subcommand: str) -> None:
    wing = Path(wiring_lightning.cli.__file__).parent
    imported = {name.removeprefix("wiring_lightning.cli.").partition(".")[0]
                for name in imported_names(wing / f"{subcommand}.py")
                if name.startswith("wiring_lightning.cli")}  # fmt: skip
    assert not imported & {"app", "commands", "inspect", *FILES}


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_help_needs_no_argument(arguments: tuple[str, ...]) -> None:
    assert succeed(*arguments).startswith("usage: wiring")


def test_version() -> None:
    assert succeed("--version") == f"wiring_lightning {wiring_lightning.__version__}\n"


@pytest.mark.parametrize("subcommand", LIGHTNING)
def test_every_subcommand_has_help(subcommand: str) -> None:
    out = succeed(subcommand, "--help")
    assert out.startswith(f"usage: wiring [options] {subcommand} ")
    for option in ("--config", "--model", "--data", "--ckpt_path", "--print_config"):
        assert option in out
    builds_callbacks = subcommand != "inspect"
    for name in ("MaskConnect", "PhaseSchedule", "WiringMonitor"):
        assert (f"wiring_lightning.callbacks.{name}" in "".join(out.split())) == builds_callbacks


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_help_leads_with_what_matters(subcommand: str) -> None:
    out = succeed(subcommand, "--help")
    first, _, rest = out.partition("\nall options:\n")
    assert len(first.splitlines()) < 40
    assert max(map(len, first.splitlines())) <= 100
    assert "--config" in first
    assert "--ckpt_path" in first
    assert (subcommand == "fit") == ("--trainer.max_epochs" in first)
    titles = [line for line in rest.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["checkpoint and output:", "network and its training:", "data:",
                      "Lightning's Trainer:"]  # fmt: skip
    for option in re.findall(r"--trainer\.\w+|--(?!model|data|KEY)\w+", first):
        assert re.search(rf"^  (-c CONFIG, )?{option}\b", rest, re.MULTILINE), option


def test_the_changes_that_the_help_names_are_accepted(base: str) -> None:
    changes = ["--trainer.max_epochs=7", f"{BACKBONE}depth=20", "--model.optimizer=torch.optim.SGD",
               "--model.optimizer.lr=0.3", "--data=Digits", "--data.batch_size=16",
               "--trainer.callbacks+=WiringMonitor", "--trainer.callbacks.every_n_epochs=4",
               "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=there",
               "--trainer.accelerator=cpu", "--trainer.devices=2",
               "--trainer.fast_dev_run=true", "--seed_everything=5"]  # fmt: skip
    config = yaml.safe_load(succeed("fit", "--config", base, *changes, "--print_config"))
    assert config["trainer"]["callbacks"][-1]["init_args"]["every_n_epochs"] == 4
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "there"
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.3


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("callback", [BudgetedSearch, MaskConnect, PhaseSchedule])
def test_help_tells_every_option_of_a_callback(callback: type[Callback]) -> None:
    out = succeed("fit", f"--trainer.callbacks.help={callback.__name__}")
    documented = {
        p.arg_name: p.description for p in docstring_parser.parse(callback.__doc__).params
    }
    assert documented.keys() == inspect.signature(callback).parameters.keys()
    for name, description in documented.items():
        assert f"--trainer.callbacks.{name} " in out
        assert squeezed(description.rstrip(".")) in squeezed(out)


def test_print_config_shows_every_option_and_can_be_read_back(base: str, tmp_path: Path) -> None:
    phases = "[{class_path: PhaseSchedule, init_args: {phases: [{epochs: 1}, {epochs: 2}]}}]"
    out = succeed("fit", "--config", base, f"--trainer.callbacks+={phases}", "--print_config")
    mask_connect, schedule = yaml.safe_load(out)["trainer"]["callbacks"]
    assert mask_connect["class_path"] == "wiring_lightning.callbacks.MaskConnect"
    assert mask_connect["init_args"].keys() == inspect.signature(MaskConnect).parameters.keys()
    assert mask_connect["init_args"]["lr"] == 0.5
    for phase in schedule["init_args"]["phases"]:
        assert phase.keys() == inspect.signature(Phase).parameters.keys()
    (tmp_path / "printed.yaml").write_text(out)
    assert succeed("fit", "--config", "printed.yaml", "--print_config") == out


def public(package: Any, base_class: type) -> list[str]:
    return [name for name in package.__all__ if issubclass(getattr(package, name), base_class)]


@pytest.mark.parametrize(
    ("options", "name", "package"),
    [
        (("--trainer.callbacks.help",), "WiringMonitor", "callbacks"),
        (("--data.help",), "FashionMNIST", "data"),
        (("--model.help",), "SegmentationTask", "tasks"),
        (("--model=ClassificationTask", "--model.backbone.help"), "ResNet", "backbones"),
    ],
)
def test_short_names_are_enough(options: tuple[str, ...], name: str, package: str) -> None:
    *before, last = options
    out = succeed("fit", *before, f"{last}={name}")
    assert f"wiring_lightning.{package}.{name}" in squeezed(out)


@pytest.mark.parametrize(
    ("package", "base_class"),
    [
        (wiring_lightning.callbacks, Callback),
        (wiring_lightning.data, LightningDataModule),
        (wiring_lightning.tasks, LightningModule),
        (wiring_lightning.backbones, nn.Module),
    ],
)
def test_every_class_has_a_short_name(package: Any, base_class: type) -> None:
    names = public(package, base_class)
    assert len(names) > 2
    with own_classes_preferred():
        paths = [_typehints.resolve_class_path_by_name(base_class, name) for name in names]
    assert paths == [f"{package.__name__}.{name}" for name in names]


def test_a_value_on_the_command_line_wins_over_the_config(base: str) -> None:
    out = succeed("fit", "--config", base, f"{BACKBONE}fan_in=2", "--data.seed=7", "--print_config")
    config = yaml.safe_load(out)
    assert config["model"]["init_args"]["backbone"]["init_args"]["fan_in"] == 2
    assert config["data"]["init_args"]["seed"] == 7


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--data", "CIFAR", "data: there is no class 'CIFAR'; did you mean CIFAR10?"),
        ("--data", "ResNeXt", "data: there is no class 'ResNeXt'; there are CIFAR10, CIFAR100,"),
        ("--data", "", "data: there is no class ''; there are CIFAR10, CIFAR100,"),
        ("--trainer.callbacks", "RigLL", "trainer.callbacks: there is no class 'RigLL'; did you"),
        ("--trainer.logger", "CSVLoger", "trainer.logger: there is no class 'CSVLoger'; did you"),
        ("--model", "classificationTask", "model: there is no class 'classificationTask'; did you"),
        (
            "--model.backbone",
            "ResNext",
            "model.backbone: there is no class 'ResNext'; did you mean",
        ),
        (
            "--model.backbone",
            "Digits",
            "model.backbone: there is no class 'Digits'; there are Conv",
        ),
        ("--model.backbone", "torch.optim.SGD", "model.backbone: torch.optim.SGD is no Module"),
        ("--model.optimizer", "SGDD", "model.optimizer: there is no class 'SGDD'; give its import"),
        ("--model.backbone", "torchvision:resnet", "model.backbone: torchvision has no network"),
    ],
)
def test_help_for_a_class_that_is_not_there_says_so(
    option: str, name: str, said: str, base: str
) -> None:
    assert refused("fit", f"--config={base}", f"{option}.help={name}").startswith(said)
