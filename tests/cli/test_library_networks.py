"""`--model.backbone timm:resnet18`: built, saved, read again, and refused in one sentence."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torchvision
import yaml
from jsonargparse import _typehints

from tests.cli.commands import BASE, checkpoint_in, refused, succeed, weights_in, wiring, write

TIMM, TORCHVISION = "timm:resnet10t", "torchvision:squeezenet1_1"


def config(path: str, **arguments: Any) -> dict[str, Any]:
    changed = deepcopy(BASE)
    backbone = {"class_path": path, "init_args": {"in_chans": 1, "num_classes": 10, **arguments}}
    changed["model"]["init_args"]["backbone"] = backbone
    changed["data"]["init_args"]["batch_size"] = 8
    changed["trainer"] |= {"callbacks": None, "limit_train_batches": 1, "limit_test_batches": 1}
    return changed


@pytest.mark.slow
def test_a_run_can_be_read_again(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    file = write(config(TIMM, global_pool="max"), tmp_path / "c.yaml")
    report = succeed("fit", "--config", file)
    checkpoint = str(checkpoint_in(tmp_path))
    saved = str(Path(checkpoint).parents[1] / "config.yaml")
    assert weights_in(Path(checkpoint))["backbone.conv1.0.weight"].shape[1] == 1
    shown = succeed("inspect", "--config", saved, "--ckpt_path", checkpoint)
    assert shown.split()[:2] == ["parameters", "4,927,186"]
    assert "parameters     4,927,186" in report
    tested = succeed("test", "--config", saved, "--ckpt_path", checkpoint)
    accuracy = float(re.findall(r"test acc +(\S+)", report)[0])
    assert float(re.findall(r"test/acc\W+(\d\S+)", tested)[0]) == pytest.approx(accuracy, abs=1e-4)
    assert "4,927,186" in succeed("table", str(Path(saved).parent))


def test_arguments_on_the_command_line() -> None:
    given = ("--model.backbone", TORCHVISION, "--model.backbone.in_chans=1",
             "--model.backbone.num_classes", "7")  # fmt: skip
    shown = succeed("inspect", "--model=ClassificationTask", *given)
    theirs = torchvision.models.squeezenet1_1(num_classes=7)
    lost = theirs.features[0].weight[:, 1:].numel()
    expected = sum(parameter.numel() for parameter in theirs.parameters()) - lost
    assert shown.split()[:2] == ["parameters", f"{expected:,}"]


def shown_after(*given: str, file: str) -> tuple[dict[str, Any], list[str]]:
    """The config that would run, and the lines about classes that changed."""
    done = wiring("fit", "--config", file, *given, "--print_config")
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if "keeps from" in line]
    return yaml.safe_load(done.out), lines


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("ResNeXt", "timm:resnet10t", {"num_classes": 7}),
        ("ResNeXt", "torchvision:resnet18", {"num_classes": 7}),
        ("ResNeXt", "ResNet", {"depth": 11, "num_classes": 7, "in_channels": 1, "fan_in": 1}),
        ("timm:resnet10t", "torchvision:resnet18", {"num_classes": 7, "in_chans": 1}),
        (
            "timm:resnet10t",
            "timm:resnet18",
            {"num_classes": 7, "in_chans": 1, "global_pool": "max"},
        ),
    ],
)
def test_another_backbone_keeps_what_means_the_same(
    old: str, new: str, kept: dict[str, Any], tmp_path: Path
) -> None:
    if "timm:" in old + new:
        pytest.importorskip("timm")
    changed = config(old, num_classes=7, global_pool="max")
    if old == "ResNeXt":
        own = {"depth": 11, "width": 8, "cardinality": 8, "fan_in": 1, "num_classes": 7}
        own |= {"in_channels": 1}
        changed["model"]["init_args"]["backbone"]["init_args"] = own
    file = write(changed, tmp_path / "c.yaml")
    shown, lines = shown_after("--model.backbone", new, file=file)
    plain = config(new)  # the new network with its own defaults
    plain["model"]["init_args"]["backbone"]["init_args"] = {}
    expected, none = shown_after(file=write(plain, tmp_path / "d.yaml"))
    arguments = shown["model"]["init_args"]["backbone"]["init_args"]
    defaults = expected["model"]["init_args"]["backbone"]["init_args"]
    assert {name: value for name, value in arguments.items() if defaults[name] != value} == kept
    assert none == []
    (line,) = lines
    assert all(f"{name}={value}" in line for name, value in kept.items())
    assert line.startswith(f"wiring: {new.rpartition(':')[2]} keeps from ")


def test_other_classes_say_what_they_keep(tmp_path: Path) -> None:
    changed = config(TORCHVISION)
    sgd = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
    changed["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": sgd}
    file = write(changed, tmp_path / "c.yaml")
    shown, lines = shown_after("--model.optimizer", "AdamW", file=file)
    arguments = shown["model"]["init_args"]["optimizer"]["init_args"]
    assert (arguments["lr"], arguments["weight_decay"]) == (0.3, 0.01)
    said = "wiring: AdamW keeps from SGD what is not given anew: lr=0.3, weight_decay=0.01"
    assert lines == [said]
    assert shown_after("--model.optimizer", "torch.optim.SGD", file=file)[1] == []


@pytest.mark.parametrize(
    ("given", "second", "said"),
    [
        (("--model.optimizer", "AdamW", "--model.optimizer.lr=0.2"), {}, "weight_decay=0.01"),
        (("--model.optimizer=AdamW", "--model.optimizer.lr=0.3"), {}, "weight_decay=0.01"),
        (("--model.optimizer.lr=0.2", "--model.optimizer=AdamW"), {}, "lr=0.2, weight_decay=0.01"),
        ((), {"optimizer": {"class_path": "AdamW", "init_args": {"weight_decay": 0.5}}}, "lr=0.3"),
        ((), {"optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.3}}}, "weight_decay=0.01"),
        (
            ("--model.optimizer.lr=0.7",),
            {"optimizer": {"class_path": "AdamW", "init_args": {"weight_decay": 0.5}}},
            "",
        ),
    ],
)
def test_what_is_given_anew_is_not_kept(
    given: tuple[str, ...], second: dict[str, Any], said: str, tmp_path: Path
) -> None:
    changed = config(TORCHVISION)
    sgd = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
    changed["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": sgd}
    file = write(changed, tmp_path / "c.yaml")
    if second:
        task = {"class_path": "ClassificationTask", "init_args": second}
        given = ("--config", write({"model": task}, tmp_path / "second.yaml"), *given)
    lines = shown_after(*given, file=file)[1]
    kept = f"wiring: AdamW keeps from SGD what is not given anew: {said}"
    assert lines == ([kept] if said else [])


def test_a_class_between_two_others_keeps_nothing(tmp_path: Path) -> None:
    changed = config(TORCHVISION)
    sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.3}}
    changed["model"]["init_args"]["optimizer"] = sgd
    file = write(changed, tmp_path / "c.yaml")
    given = ("--model.optimizer=Adam", "--model.optimizer.betas=[0.5,0.9]",
             "--model.optimizer=AdamW", "--model.optimizer.eps=0.1")  # fmt: skip
    (line,) = shown_after(*given, file=file)[1]
    assert line.startswith("wiring: AdamW keeps from Adam what is not given anew: ")
    assert "lr=0.3" in line
    assert "betas=" in line


def test_data_that_change_say_what_they_keep(tmp_path: Path) -> None:
    file = write(config(TORCHVISION), tmp_path / "c.yaml")
    given = ("--data=CIFAR10", "--data.root=there")
    (line,) = shown_after(*given, file=file)[1]
    assert line == "wiring: CIFAR10 keeps from Digits what is not given anew: batch_size=8"
    assert shown_after(*given, "--data.batch_size=4", file=file)[1] == []


def test_other_parsers_of_the_process_are_as_before() -> None:
    assert "--nothing" in refused("fit", "--model=ClassificationTask", "--nothing")
    owners = {getattr(value, "__module__", None) or "" for value in vars(_typehints).values()}
    assert not [owner for owner in owners if owner.startswith("wiring_lightning")]


@pytest.mark.parametrize(
    "path",
    [
        "torchvision:squeezenet1_1",
        "torchvision.models.squeezenet1_1",
        "wiring_lightning.backbones.torchvision_models.squeezenet1_1",
    ],
)
def test_names_and_class_paths_mean_the_same(path: str, tmp_path: Path) -> None:
    file = write(config(path), tmp_path / "c.yaml")
    shown = yaml.safe_load(succeed("fit", "--config", file, "--print_config"))
    backbone = shown["model"]["init_args"]["backbone"]
    assert backbone["class_path"].endswith("backbones.torchvision_models.squeezenet1_1")
    again = succeed("fit", "--config", write(shown, tmp_path / "d.yaml"), "--print_config")
    assert yaml.safe_load(again) == shown


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("torchvision:squeezenet", {}, "near ones are squeezenet1_1"),
        ("torchvision:", {}, "torchvision has no network ''"),
        ("torchvision:os.system", {}, "torchvision has no network 'os.system'"),
        (TORCHVISION, {"chanels": 3}, "squeezenet1_1 has no option 'chanels'"),
        (TORCHVISION, {"in_chans": "one"}, "in_chans: must be a whole number (int), got 'one'"),
        ("torchvision:resnet18", {"weights": "NO"}, "must be one of IMAGENET1K_V1, DEFAULT"),
        ("huggingface:resnet18", {}, "huggingface:resnet18"),
        ("timm:resnet81", {}, "near ones are resnet18"),
        ("timm:resnet10t.c9_in1k", {}, "near ones are resnet10t.c3_in1k"),
        ("timm:hf-hub:someone/net", {}, "timm has no network 'hf-hub:someone/net'"),
        (TIMM, {"chanels": 3}, "resnet10t has no option 'chanels'"),
        (TIMM, {"checkpoint_path": "x.pt"}, "resnet10t has no option 'checkpoint_path'"),
    ],
)
def test_a_wrong_name_or_argument_is_one_sentence(
    path: str, arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if path.startswith("timm"):
        pytest.importorskip("timm")
    file = write(config(path, **arguments), tmp_path / "c.yaml")
    assert said in refused("fit", "--config", file)


def test_a_stranger_s_run_gets_no_weights_and_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", refuse)
    given = config("torchvision.models.resnet18", weights="DEFAULT", num_classes=1000)
    good = write(given, tmp_path / "c.yaml")
    assert succeed("inspect", "--config", good).startswith("parameters")
    given = ("--model.backbone=torchvision:resnet18", "--model.backbone.weights=DEFAULT")
    shown = succeed("inspect", "--model=ClassificationTask", *given)
    assert shown.startswith("parameters")
    evil = {"class_path": "evil.Net"}
    for value in (evil, [evil], [[1, evil]]):
        bad = write(config("torchvision:resnet18", norm_layer=value), tmp_path / "c.yaml")
        assert "takes plain values only" in refused("inspect", "--config", bad)
