"""What is wrong in a config, or with the data it names, is refused in one sentence."""

from pathlib import Path

import pytest

from tests.bad_input.configs import (
    Change,
    backbone,
    callbacks,
    config_with,
    model,
    phases,
    trainer,
    unknown_class,
)
from tests.cli.commands import refused, write

BAD_CONFIGS: dict[str, tuple[Change, list[str]]] = {
    "K above the cardinality": (
        backbone(fan_in=7),
        ["fan_in (K) must be between 1 and the cardinality (C = 6), got 7"],
    ),
    "K below 1": (backbone(fan_in=0), ["fan_in (K) must be between 1", "got 0"]),
    "depth without a plan": (backbone(depth=12), ["depth must be 2 + 9n (11, 20, 29", "got 12"]),
    "depth of ImageNet": (
        backbone(depth=29, stem="imagenet"),
        ["depth must be one of 50, 101, 152 with the imagenet stem, got 29"],
    ),
    "unknown wiring": (backbone(wiring="soft"), ["model.backbone.wiring", "'learned'", "soft"]),
    "text for a number": (backbone(depth="deep"), ["model.backbone.depth", "int", "deep"]),
    "no phase": (phases(), ["PhaseSchedule needs at least one phase, such as {epochs: 30"]),
    "phase of 0 epochs": (
        phases({"epochs": 1}, {"epochs": 0}),
        ["phase 2 must last at least one epoch, got 0"],
    ),
    "unknown phase key": (
        phases({"epochs": 1, "gatelr": 0.1}),
        ["trainer.callbacks.phases: Phase has no option 'gatelr'", "wiring fit --help"],
    ),
    "phase without epochs": (phases({"lr": 0.1}), ["trainer.callbacks.phases", "epochs"]),
    "negative rate in a phase": (
        phases({"epochs": 1, "lr": -0.1}),
        ["lr of phase 1 must be a number from 0 up, got -0.1"],
    ),
    "negative rate of the gates": (
        callbacks(("MaskConnect", {"lr": -1})),
        ["MaskConnect: lr must be from 0 up, got -1"],
    ),
    "negative rate of the weights": (
        model(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": -1}}),
        ["Invalid learning rate: -1"],
    ),
    "clipping to nothing": (
        callbacks(("MaskConnect", {"low": 0.5, "high": 0.5})),
        ["scores are clipped to 0 <= low < high, got [0.5, 0.5]"],
    ),
    "freeze without a learner": (
        callbacks(("PhaseSchedule", {"phases": [{"epochs": 1, "freeze": True}]})),
        ["`freeze` or `gate_lr`, but no callback learns a wiring: add MaskConnect"],
    ),
    "phases and a scheduler": (
        lambda config: [
            phases({"epochs": 1, "lr": 0.1})(config),
            model(
                lr_scheduler={
                    "class_path": "torch.optim.lr_scheduler.StepLR",
                    "init_args": {"step_size": 1},
                }
            )(config),
        ],
        ["sets the learning rate of each phase", "scheduler", "remove one of the two"],
    ),
    "nothing to learn in a full wiring": (
        backbone(wiring="full"),
        ["MaskConnect found no gate to learn", 'wiring="learned"', "or remove the callback"],
    ),
    "nobody learns": (
        trainer(callbacks=None),
        ["has a learned wiring (2 layers), but no callback learns it", "add MaskConnect"],
    ),
    "two learners": (
        callbacks(("MaskConnect", {}), ("MaskConnect", {"lr": 0.1})),
        ["2 MaskConnect callbacks: leave one"],
    ),
    "two monitors": (
        callbacks(("WiringMonitor", {}), ("MaskConnect", {}), ("WiringMonitor", {})),
        ["2 WiringMonitor callbacks whose states have the same name", ": leave one"],
    ),
    "checkpoints of the same name": (
        callbacks(("MaskConnect", {}), *[("ModelCheckpoint", {"monitor": "val/acc"})] * 2),
        ["2 ModelCheckpoint callbacks", "'monitor': 'val/acc'", "or change one of these settings"],
    ),
    "ends of the same name": (
        callbacks(*[("EarlyStopping", {"monitor": "val/loss"})] * 3, ("MaskConnect", {})),
        ["3 EarlyStopping callbacks", "'monitor': 'val/loss'", "leave one, or change one of"],
    ),
    "unknown key at the top": (
        lambda config: config.update(modle={"class_path": "ClassificationTask"}),
        ["does not accept option 'modle", "wiring fit --help"],
    ),
    "unknown key of the trainer": (
        trainer(max_epoch=3),
        ["does not accept option 'trainer.max_epoch'", "wiring fit --help"],
    ),
    "unknown key of the model": (
        model(smoothing=0.1),
        ["model: ClassificationTask has no option 'smoothing'", "wiring fit --help"],
    ),
    "unknown key of the backbone": (
        backbone(fanin=2),
        ["model.backbone: ResNeXt has no option 'fanin'", "wiring fit --help"],
    ),
    "unknown key of a callback": (
        callbacks(("MaskConnect", {"rate": 1})),
        ["trainer.callbacks: MaskConnect has no option 'rate'"],
    ),
    "arguments beside a class": (
        lambda config: config["trainer"].update(
            callbacks=[{"class_path": "MaskConnect", "lr": 0.1, "freeze_epoch": 1}]
        ),
        ["trainer.callbacks: a class is given as class_path, and init_args as needed"],
    ),
    "unknown model": (
        unknown_class("model", "ClassifcationTask"),
        ["model: there is no class 'ClassifcationTask'; did you mean ClassificationTask?"],
    ),
    "unknown backbone": (
        unknown_class("model.init_args.backbone", "ResNext"),
        ["model.backbone: there is no class 'ResNext'; did you mean ResNeXt?"],
    ),
    "unknown data": (
        unknown_class("data", "Cifar"),
        ["data: there is no class 'Cifar'; did you mean CIFAR10"],
    ),
    "unknown callback": (
        callbacks(("Quux", {})),
        [
            "trainer.callbacks: there is no class 'Quux'; there are ACDC, BudgetedSearch, DNW,",
            " more, or give an import path, package.module.Class",
        ],
    ),
    "module that is not there": (
        unknown_class("model.init_args.backbone", "nowhere.Net"),
        ["model.backbone", "nowhere"],
    ),
    "number of classes": (
        backbone(num_classes=7),
        ["The data has 10 classes, but the backbone ends in 7: set num_classes=10"],
    ),
    "number of channels": (
        backbone(in_channels=3),
        ["The images have 1 channels, but the backbone takes 3: set in_channels=1"],
    ),
    "missing data": (
        unknown_class("data", "CIFAR10"),
        ["CIFAR10 is not in 'data/cifar-10-batches-py'", "--data.download=true", "--data.root"],
    ),
    "batch of nothing": (
        lambda config: config["data"]["init_args"].update(batch_size=0),
        ["batch_size must be at least 1, got 0"],
    ),
    "no data": (lambda config: config.pop("data"), ["required: fit.data"]),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_config_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    change, expected = BAD_CONFIGS[name]
    file = write(config_with(change), tmp_path / "bad.yaml")
    said = refused("fit", "--config", file)
    for part in expected:
        assert part in said
    assert not list(tmp_path.rglob("*.ckpt"))


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data/cifar-10-batches-py").mkdir(parents=True)
    change = unknown_class("data", "CIFAR10")
    said = refused("fit", "--config", write(config_with(change), tmp_path / "bad.yaml"))
    assert "CIFAR10 cannot be read" in said
    assert "data_batch_1" in said


def test_a_model_without_a_wiring_cannot_be_drawn(tmp_path: Path) -> None:
    config = config_with()
    plain = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}
    config["model"]["init_args"]["backbone"] = plain
    file = write(config, tmp_path / "plain.yaml")
    said = refused("inspect", "--trust", "--figure=x.png", "--config", file)
    assert "ClassificationTask holds no network with a `wiring()`" in said
