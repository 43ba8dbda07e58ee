"""A number that makes no sense is refused where it decides something."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.bad_input.configs import Change, backbone, callbacks, config_with, model, phases, trainer
from tests.cli.commands import refused, succeed, wiring, write
from tests.trainers import quiet_trainer
from wiring_lightning import backbones
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask

NAN, INF = math.nan, math.inf


def data(**arguments: Any) -> Change:
    return lambda config: config["data"]["init_args"].update(arguments)


def optimizer(name: str = "SGD", **arguments: Any) -> Change:
    return model(optimizer={"class_path": f"torch.optim.{name}", "init_args": arguments})


def scheduler(name: str, **arguments: Any) -> Change:
    path = f"torch.optim.lr_scheduler.{name}"
    return model(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                 lr_scheduler={"class_path": path, "init_args": arguments})  # fmt: skip


def a_backbone(name: str, **arguments: Any) -> Change:
    return model(backbone={"class_path": name, "init_args": arguments})


def learner(**arguments: Any) -> Change:
    return callbacks(("MaskConnect", arguments))


def searched(change: Change) -> Change:
    """With the callback that a fabric needs."""

    def both(config: Any) -> None:
        change(config)
        callbacks(("BudgetedSearch", {"budget": 1e4}))(config)

    return both


FABRIC = {"columns": 2, "channels": 4, "scales": 2, "in_channels": 1, "image_size": 8}
GRAPH = {"nodes": 20, "inputs": 4, "outputs": 6, "depth": 3, "edges": 40, "in_channels": 1,
         "image_size": 8, "strides": [2, 1]}  # fmt: skip

BAD_NUMBERS: dict[str, tuple[Change, list[str]]] = {
    # null where a number must be given
    "null in the backbone": (
        backbone(depth=None),
        ["model.backbone.depth", "whole number", "null"],
    ),
    "null for K": (backbone(fan_in=None), ["model.backbone.fan_in", "null"]),
    "null in the optimizer": (
        optimizer(lr=0.1, momentum=None),
        ["model.optimizer.momentum", "null"],
    ),
    "null in the data": (data(batch_size=None), ["data.batch_size", "null"]),
    "null in a callback": (learner(lr=None), ["trainer.callbacks.lr", "null"]),
    "null in a scheduler": (
        scheduler("StepLR", step_size=1, gamma=None),
        ["model.lr_scheduler.gamma", "null"],
    ),
    # of another kind
    "true for a number": (backbone(width=True), ["model.backbone.width", "whole number", "True"]),
    "a fraction for a count": (data(batch_size=1.5), ["data.batch_size", "whole number", "1.5"]),
    "text for a rate": (optimizer(lr="fast"), ["model.optimizer.lr", "a number", "fast"]),
    "a list for a number": (backbone(width=[4]), ["model.backbone.width", "[4]"]),
    "a mapping for a number": (learner(lr={"a": 1}), ["trainer.callbacks.lr", "a number"]),
    # no number, or infinite
    **{
        f"{name} = {value}": (optimizer(**{"lr": 0.1, name: value}), [name])
        for name, value in (("lr", NAN), ("lr", INF), ("momentum", -INF), ("weight_decay", NAN))
    },
    "infinite rate of Adam": (optimizer("Adam", lr=INF), ["lr of Adam must be finite, got inf"]),
    "infinite betas": (optimizer("Adam", lr=0.1, betas=[0.9, INF]), ["betas of Adam"]),
    "infinite factor": (scheduler("StepLR", step_size=1, gamma=INF), ["gamma of StepLR"]),
    "rate of the gates": (learner(lr=INF), ["lr must be", "inf"]),
    "no number for the gates": (learner(lr=NAN), ["trainer.callbacks.lr", "nan"]),
    "upper end of scores": (learner(high=INF), ["[0.0, inf]"]),
    "rate of a phase": (phases({"epochs": 1, "lr": INF}), ["lr of phase 1", "inf"]),
    "penalty": (
        callbacks(("BudgetedSearch", {"budget": 1e4, "penalty": INF})),
        ["penalty must be finite and from 0 up, got inf"],
    ),
    "budget": (callbacks(("BudgetedSearch", {"budget": INF})), ["budget must be", "inf"]),
    "penalty of L1": (callbacks(("L1Anneal", {"penalty": INF})), ["penalty must be", "inf"]),
    "rate after pruning": (
        callbacks(("PruneAndRetrain", {"dense_epochs": 1, "lr": INF})),
        ["lr must be above 0, got inf"],
    ),
    "tolerance of a graph": (
        a_backbone("NeuralGraph", **GRAPH, tolerance=INF),
        ["tolerance must be finite and above 0, got inf"],
    ),
    "logits of a search": (
        a_backbone("ConvFabric", **FABRIC, initial=-INF),
        ["initial of ConvFabric must be finite, got -inf"],
    ),
    # out of range
    **{
        f"smoothing = {value}": (model(label_smoothing=value), ["label_smoothing must be", end])
        for value, end in ((1.0, "got 1.0"), (-0.1, "got -0.1"))
    },
    "no class": (backbone(num_classes=0), ["num_classes must be at least 1, got 0"]),
    "one class": (backbone(num_classes=1), ["num_classes must be at least 2, got 1"]),
    "layers without end": (backbone(depth=2 + 9 * 10**12), ["depth must be at most 10,000"]),
    "columns without end": (a_backbone("ConvFabric", columns=10**9), ["columns must be at most"]),
    "nodes without end": (a_backbone("NeuralGraph", nodes=10**9), ["nodes must be at most"]),
    "negative seed": (
        lambda config: config.update(seed_everything=-1),
        ["seed_everything must be at least 0, got -1"],
    ),
    "huge seed": (
        lambda config: config.update(seed_everything=2**32),
        ["seed_everything must be at most 4,294,967,295"],
    ),
    "no epoch": (trainer(max_epochs=0), ["No step was trained", "max_epochs"]),
    "no step": (trainer(max_steps=0), ["No step was trained", "max_steps"]),
    "no batches": (trainer(limit_train_batches=0), ["No step was trained", "limit_train_batches"]),
    # what the data do not have
    "image_size too large": (
        backbone(image_size=32),
        ["The images have 8 x 8 pixels", "32 x 32: set image_size=8 of the backbone"],
    ),
    "image_size too small": (backbone(image_size=4), ["costs for 4 x 4: set image_size=8"]),
    "image_size of a fabric": (
        searched(a_backbone("ConvFabric", **{**FABRIC, "image_size": 16})),
        ["costs for 16 x 16: set image_size=8"],
    ),
    # an architecture that connects nothing
    "no edges": (
        a_backbone("ConvFabric", **FABRIC, architecture=[]),
        ["architecture does not connect the input to the output: name the edges"],
    ),
    "edges that lead nowhere": (
        a_backbone("ConvFabric", **FABRIC, architecture=["column1.scale2.within"]),
        ["architecture does not connect the input to the output: name the edges"],
    ),
    "edges of a residual fabric that lead nowhere": (
        a_backbone("ResNetFabric", width=1, in_channels=1, image_size=8,
                   architecture=["stage1.block1.residual"]),
        ["architecture does not connect the input to the output: name the edges"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NUMBERS)
def test_a_number_without_sense_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, expected = BAD_NUMBERS[name]
    said = refused("fit", "--config", write(config_with(change), tmp_path / "bad.yaml"))
    for part in expected:
        assert part in said


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--model.backbone.fan_in=null", ["model.backbone.fan_in", "null"]),
        ("--model.label_smoothing=1.0", ["label_smoothing must be"]),
        ("--data.batch_size=null", ["data.batch_size", "null"]),
        ("--seed_everything=-5", ["seed_everything must be at least 0, got -5"]),
    ],
)
def test_the_same_on_the_command_line(option: str, expected: list[str], tmp_path: Path) -> None:
    said = refused("fit", "--config", write(config_with(), tmp_path / "good.yaml"), option)
    assert all(part in said for part in expected)


def test_null_is_fine_where_a_number_may_be_left_out(tmp_path: Path) -> None:
    changes = backbone(image_size=8), learner(freeze_epoch=None), trainer(fast_dev_run=True,
              max_epochs=None, log_every_n_steps=None, gradient_clip_val=None)  # fmt: skip
    succeed("fit", "--config", write(config_with(*changes), tmp_path / "good.yaml"))


# What Lightning takes, and people misread


@pytest.mark.parametrize(
    ("given", "understood"), [(1, 1), ("1", 1), (2, 2), (1.0, 1.0), ("1.0", 1.0), (0.09, 0.09)]
)
def test_a_whole_number_of_batches_is_read_as_it_is_written(
    given: Any, understood: float, tmp_path: Path
) -> None:
    file = write(config_with(trainer(limit_train_batches=given)), tmp_path / "config.yaml")
    command = f"--trainer.limit_train_batches={given}"
    good = write(config_with(), tmp_path / "good.yaml")
    for arguments in ((file,), (good, command)):
        shown = yaml.safe_load(succeed("fit", "--config", *arguments, "--print_config"))
        read = shown["trainer"]["limit_train_batches"]
        assert (read, type(read)) == (understood, type(understood))


@pytest.mark.parametrize(("given", "steps"), [(1, 1), (1.0, 3)])
def test_a_whole_number_of_batches_is_a_number_of_batches(
    given: Any, steps: int, tmp_path: Path
) -> None:
    limit = trainer(limit_train_batches=given, enable_checkpointing=False)
    small = backbone(width=1, cardinality=2)
    file = write(config_with(small, limit, data(batch_size=400)), tmp_path / "config.yaml")
    assert f"\nsteps                {steps}, MaskConnect" in succeed("fit", "--config", file)


def test_one_batch_is_said_to_be_one(tmp_path: Path) -> None:
    changes = trainer(limit_train_batches=1, fast_dev_run=True, limit_val_batches=1.0)
    run = wiring("fit", "--config", write(config_with(changes), tmp_path / "config.yaml"))
    assert "wiring: limit_train_batches: 1 is one batch; 1.0 would be all of them" in run.err
    assert "limit_val_batches" not in run.err


def test_no_step_may_be_logged(tmp_path: Path) -> None:
    changes = trainer(log_every_n_steps=0, limit_train_batches=2)
    run = wiring("fit", "--config", write(config_with(changes), tmp_path / "config.yaml"))
    assert run.code == 0, run.err
    assert "wiring: log_every_n_steps: 0 logs no step, only whole epochs" in run.err
    changes = trainer(log_every_n_steps=-1)
    said = refused("fit", "--config", write(config_with(changes), tmp_path / "bad.yaml"))
    assert "log_every_n_steps must be at least 0, got -1" in said


@pytest.mark.parametrize("batches", [0, -1])
def test_a_step_has_at_least_one_batch(batches: int, tmp_path: Path) -> None:
    changes = trainer(accumulate_grad_batches=batches)
    said = refused("fit", "--config", write(config_with(changes), tmp_path / "bad.yaml"))
    assert f"accumulate_grad_batches must be at least 1, got {batches}" in said


def test_barebones_says_that_it_measures_nothing(tmp_path: Path) -> None:
    config = config_with()
    said = refused(
        "fit", "--config", write(config, tmp_path / "c.yaml"), "--trainer.barebones=true"
    )
    assert "barebones" in said
    kept = ("accelerator", "devices", "max_epochs", "limit_train_batches", "limit_val_batches",
            "limit_test_batches", "callbacks")  # fmt: skip
    config["trainer"] = {key: config["trainer"][key] for key in kept} | {"barebones": True}
    run = wiring("fit", "--config", write(config, tmp_path / "bare.yaml"))
    assert run.code == 0, run.err
    assert "wiring: barebones: true logs and saves nothing" in run.err
    assert "after pruning" in run.out
    assert "test acc" not in run.out


# The same from Python


def net(**arguments: Any) -> backbones.ResNeXt:
    sizes = {"depth": 11, "width": 1, "cardinality": 4, "fan_in": 2, "in_channels": 1}
    return backbones.ResNeXt(**{**sizes, "image_size": 8, "wiring": "full", **arguments})


def fit(task: ClassificationTask) -> None:
    quiet_trainer(limit_train_batches=2).fit(task, Digits(batch_size=8))


SGD = torch.optim.SGD
IN_PYTHON: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no number": (lambda: net(width=None), ValueError, "width must be a whole number, got None"),
    "a fraction": (lambda: net(width=1.5), ValueError, "width must be a whole number, got 1.5"),
    "true": (lambda: net(width=True), ValueError, "width must be a whole number, got True"),
    "label smoothing": (
        lambda: ClassificationTask(net(), label_smoothing=1.0),
        MisconfigurationException,
        "label_smoothing must be from 0 up and below 1, got 1.0",
    ),
    "infinite rate": (
        lambda: fit(ClassificationTask(net(), optimizer=partial(SGD, lr=INF))),
        MisconfigurationException,
        "lr of SGD must be finite, got inf",
    ),
    "no number as decay": (
        lambda: fit(ClassificationTask(net(), optimizer=partial(SGD, lr=0.1, weight_decay=NAN))),
        MisconfigurationException,
        "weight_decay of SGD must be finite, got nan",
    ),
    "image size": (
        lambda: fit(ClassificationTask(net(image_size=16))),
        MisconfigurationException,
        "8 x 8 pixels, but the backbone counts its costs for 16 x 16",
    ),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_python_raises_what_is_documented(name: str) -> None:
    act, error, message = IN_PYTHON[name]
    with pytest.raises(error, match=message):
        act()


SMALLEST: dict[str, dict[str, Any]] = {
    "ConvFabric": FABRIC,
    "DenseNet": {"depth": 7, "fan_in": 1},
    "GatedHeads": {},
    "MobileNetV1": {},
    "MobileNetV1DNW": {},
    "NeuralGraph": GRAPH,
    "ResNeXt": {"depth": 11, "fan_in": 1},
    "ResNet": {"depth": 20, "fan_in": 1},
    "ResNetFabric": {"width": 1},
    "SparseNet": {"depth": 7},
    "SparseResNet": {"depth": 11},
}


@pytest.mark.parametrize("name", backbones.__all__)
def test_every_backbone_checks_what_all_have(name: str) -> None:
    make = getattr(backbones, name)
    for size in ("num_classes", "in_channels", "image_size"):
        for value in (0, -1, 1.5, True, 10**9):
            with pytest.raises(ValueError, match=f"^{size} must be"):
                make(**{**SMALLEST[name], size: value})


@pytest.mark.parametrize(
    "make", [partial(backbones.SparseNet, 10, 4), partial(backbones.ResNet, 14, wiring="previous")]
)
def test_a_size_that_nobody_gave_is_a_warning(make: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="8 x 8 pixels, but .* 32 x 32: set image_size=8"):
        fit(ClassificationTask(make(in_channels=1)))
