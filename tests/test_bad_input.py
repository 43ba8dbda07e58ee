"""What a user can get wrong ends in one sentence that says what it is and what to do."""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import SGD

from tests.test_cli import BASE, wiring, write
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.checkpoints import (
    AtomicCheckpointIO,
    CheckpointError,
    load_checkpoint,
    load_weights,
)
from wiring_lightning.data import CIFAR10, Digits
from wiring_lightning.tasks import ClassificationTask

Config = dict[str, Any]
Change = Callable[[Config], None]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("WIRING_DEBUG", raising=False)


def config_with(*changes: Change) -> Config:
    config = deepcopy(BASE)
    config["trainer"] |= {"limit_train_batches": 4, "enable_progress_bar": False, "logger": False}
    for change in changes:
        change(config)
    return config


def refused(*arguments: str, code: int = 2) -> str:
    """Run a command that must end in one sentence on stderr, and return that sentence."""
    run = wiring(*arguments)
    assert run.code == code, run.err
    assert "Traceback" not in run.err
    assert "after pruning" not in run.out  # no report
    *_, last = run.err.splitlines()
    assert last.startswith("wiring: error: ")
    assert run.err.count("wiring: error: ") == 1
    assert "usage:" not in run.err
    assert len(last) < 400
    return last.removeprefix("wiring: error: ")


# Configs


def backbone(**arguments: Any) -> Change:
    return lambda config: config["model"]["init_args"]["backbone"]["init_args"].update(arguments)


def trainer(**arguments: Any) -> Change:
    return lambda config: config["trainer"].update(arguments)


def model(**arguments: Any) -> Change:
    return lambda config: config["model"]["init_args"].update(arguments)


def callbacks(*callbacks: tuple[str, dict[str, Any]]) -> Change:
    given = [{"class_path": name, "init_args": arguments} for name, arguments in callbacks]
    return trainer(callbacks=given)


def phases(*phases: dict[str, Any]) -> Change:
    return callbacks(("MaskConnect", {}), ("PhaseSchedule", {"phases": list(phases)}))


def unknown_class(key: str, name: str) -> Change:
    def change(config: Config) -> None:
        *path, last = key.split(".")
        for part in path:
            config = config[part]
        config[last] = {"class_path": name}

    return change


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
        ["MaskConnect: lr must be a number from 0 up, got -1"],
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
    "nothing to learn in a random wiring": (
        backbone(wiring="random"),
        ["MaskConnect found no gate to learn", 'wiring="learned"', "or remove the callback"],
    ),
    "nobody learns": (
        trainer(callbacks=None),
        ["has a learned wiring (2 gates), but no callback learns it", "add MaskConnect"],
    ),
    "two learners": (
        callbacks(("MaskConnect", {}), ("MaskConnect", {"lr": 0.1})),
        ["2 MaskConnect callbacks: leave one"],
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
        ["trainer.callbacks: there is no class 'Quux'; give its import path, package.module.Class"],
    ),
    "module that is not there": (
        unknown_class("model.init_args.backbone", "nowhere.Net"),
        ["model.backbone", "nowhere"],
    ),
    "number of classes": (
        backbone(num_classes=7),
        ["The data has 10 classes, but the backbone ends in 7: set num_classes=10"],
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


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nonsense=1"], "unrecognized arguments: --nonsense=1"),
        (["--trainer.nonsense=1"], "unrecognized arguments: --trainer.nonsense=1"),
        (["--model.nonsense=1"], "model: ClassificationTask has no option 'nonsense'"),
        (["--model.backbone.nonsense=1"], "model.backbone: ResNeXt has no option 'nonsense'"),
        (["--model.backbone=ResNext"], "model.backbone: there is no class 'ResNext'; did you mean"),
        (["--trainer.max_epochs=many"], "trainer.max_epochs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--config=broken.yaml"], "Problems parsing config"),
        (["--config=words.yaml"], "Unexpected config: just some words"),
    ],
)
def test_a_bad_argument_is_refused_in_one_sentence(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text("model: [\n  x: {")
    (tmp_path / "words.yaml").write_text("just some words")
    said = refused("fit", "--config", write(config_with(), tmp_path / "good.yaml"), *arguments)
    assert expected in said
    assert "wiring fit --help" in said


def test_an_unknown_subcommand_is_refused() -> None:
    said = refused("train")
    assert "'train'" in said
    assert "'fit', 'validate', 'test', 'predict', 'inspect'" in said


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data/cifar-10-batches-py").mkdir(parents=True)
    change = unknown_class("data", "CIFAR10")
    said = refused("fit", "--config", write(config_with(change), tmp_path / "bad.yaml"))
    assert "CIFAR10 cannot be read" in said
    assert "data_batch_1" in said


def test_a_model_without_a_wiring_cannot_be_inspected(tmp_path: Path) -> None:
    config = config_with()
    plain = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}
    config["model"]["init_args"]["backbone"] = plain
    said = refused("inspect", "--config", write(config, tmp_path / "plain.yaml"))
    assert "ClassificationTask holds no network with a `wiring()`" in said


def test_the_traceback_is_there_for_those_who_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIRING_DEBUG", "1")
    file = write(config_with(backbone(num_classes=7)), tmp_path / "bad.yaml")
    with pytest.raises(MisconfigurationException, match="10 classes"):
        wiring("fit", "--config", file)


class Buggy(ClassificationTask):
    def training_step(self, *_: Any) -> Any:
        return torch.zeros(2) @ torch.zeros(3)


def test_an_error_in_the_users_code_keeps_its_traceback(tmp_path: Path) -> None:
    config = config_with()
    config["model"]["class_path"] = "tests.test_bad_input.Buggy"
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        wiring("fit", "--config", write(config, tmp_path / "buggy.yaml"))


# The same from Python


def net(**arguments: Any) -> ResNeXt:
    sizes = {"depth": 11, "width": 1, "cardinality": 4, "fan_in": 2, "in_channels": 1}
    return ResNeXt(**{**sizes, "image_size": 8, **arguments})


def fit(task: LightningModule, *callbacks: Callback, **settings: Any) -> None:
    settings.setdefault("limit_train_batches", 2)
    quiet_trainer(callbacks=list(callbacks), **settings).fit(task, Digits(batch_size=8))


IN_PYTHON: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "K above the cardinality": (lambda: net(fan_in=5), ValueError, r"\(C = 4\), got 5"),
    "K below 1": (lambda: net(fan_in=-1), ValueError, "got -1"),
    "depth without a plan": (lambda: net(depth=21), ValueError, "2 . 9n .* got 21"),
    "nobody learns": (
        lambda: fit(ClassificationTask(net())),
        MisconfigurationException,
        "no callback learns it",
    ),
    "nobody learns real gates": (
        lambda: fit(ClassificationTask(net(wiring="real")), PhaseSchedule([Phase(1)])),
        MisconfigurationException,
        "no callback learns it",
    ),
    "number of classes": (
        lambda: fit(ClassificationTask(net(num_classes=3)), MaskConnect()),
        MisconfigurationException,
        "10 classes, but the backbone ends in 3",
    ),
    "no classes at all": (
        lambda: ClassificationTask(torch.nn.Flatten()),
        MisconfigurationException,
        "Flatten has neither a `num_classes` attribute nor a linear layer",
    ),
    "missing data": (
        lambda: CIFAR10(root="nowhere").setup("fit"),
        FileNotFoundError,
        "nowhere/cifar-10-batches-py",
    ),
    "no gate": (
        lambda: fit(ClassificationTask(net(wiring="full")), MaskConnect()),
        MisconfigurationException,
        "found no gate to learn in ClassificationTask",
    ),
    "missing checkpoint": (
        lambda: load_weights(net(), "nowhere.ckpt"),
        CheckpointError,
        "no checkpoint at nowhere.ckpt",
    ),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_python_raises_what_is_documented(name: str) -> None:
    act, error, message = IN_PYTHON[name]
    with pytest.raises(error, match=message):
        act()


def test_a_frozen_wiring_may_be_trained_without_a_learner() -> None:
    task = ClassificationTask(net(), optimizer=partial(SGD, lr=0.1))
    for gate in task.backbone.connections.values():
        gate.freeze()
    fit(task)


# Checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The config and the checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("run")
    saver = ("ModelCheckpoint", {"dirpath": str(folder), "filename": "good"})
    file = write(config_with(callbacks(("MaskConnect", {}), saver)), folder / "run.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        assert wiring("fit", "--config", file).code == 0
    return file, (folder / "good.ckpt").read_bytes()


def without(content: bytes, *keys: str) -> bytes:
    Path("whole.ckpt").write_bytes(content)
    checkpoint = torch.load("whole.ckpt", weights_only=True)
    return saved({key: value for key, value in checkpoint.items() if key not in keys})


def saved(content: Any) -> bytes:
    torch.save(content, "content.ckpt")
    return Path("content.ckpt").read_bytes()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[: len(content) // 2], "is damaged"),
    "almost whole": (lambda content: content[:-1], "is damaged"),
    "random bytes": (lambda content: random.Random(1).randbytes(4000), "is damaged"),
    "text": (lambda content: b"hello\n", "is damaged"),
    "empty": (lambda content: b"", "is damaged or is none (it is empty)"),
    "a list": (lambda content: saved([1, 2]), "holds a list, not a checkpoint"),
}


@pytest.mark.parametrize("subcommand", ["fit", "test", "inspect"])
@pytest.mark.parametrize("damage", [*DAMAGE, "missing", "a folder"])
def test_a_damaged_checkpoint_is_refused(
    damage: str, subcommand: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path, expected = tmp_path / "damaged.ckpt", "There is no checkpoint at"
    if damage in DAMAGE:
        spoil, expected = DAMAGE[damage]
        path.write_bytes(spoil(content))
    elif damage == "a folder":
        path.mkdir()
    said = refused(subcommand, "--config", file, "--ckpt_path", str(path))
    assert expected in said
    assert str(path) in said
    with pytest.raises(CheckpointError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        load_checkpoint(path)


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict", "inspect"])
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("cardinality=5", "backbone.blocks.module1.reduce.weight is 12 x 16 x 1 x 1 there and 10"),
        ("depth=20", "backbone.blocks.module2.reduce.weight is"),
        ("wiring=full", "backbone.connections.module2.scores is missing here"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    option: str, reason: str, subcommand: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    said = refused(
        subcommand, "--config", file, "--ckpt_path", str(path), f"--model.backbone.{option}"
    )
    assert f"{path} belongs to another network than the config describes ({reason}" in said
    assert "use the config.yaml that was saved beside it" in said


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_what_is_no_checkpoint_of_a_trainer_is_refused(
    subcommand: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "bare.ckpt"
    path.write_bytes(without(content, "pytorch-lightning_version"))
    said = refused(subcommand, "--config", file, "--ckpt_path", str(path))
    assert f"{path} is no checkpoint of a Lightning trainer" in said


def test_training_cannot_continue_from_weights_alone(
    run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "weights.ckpt"
    path.write_bytes(without(content, "optimizer_states", "lr_schedulers", "loops", "callbacks"))
    said = refused("fit", "--config", file, "--ckpt_path", str(path))
    assert f"{path} holds weights only, and training cannot continue from it" in said
    assert wiring("test", "--config", file, "--ckpt_path", str(path)).code == 0


# Runs that end badly


def with_saver(folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    saver = {"dirpath": str(folder), "every_n_train_steps": 1, "save_last": True, **arguments}
    return [
        {"class_path": "MaskConnect"},
        {"class_path": "ModelCheckpoint", "init_args": saver},
    ]


class ExplodeAt(Callback):
    """Sets a learning rate from which no network recovers."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 1e30


class Spoils(Callback):
    """The third step leaves a weight that is no number."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            pl_module.backbone.classifier.bias.data[4] = torch.nan


def explosion(folder: Path) -> Config:
    config = config_with(trainer(callbacks=with_saver(folder, filename="{step}", save_top_k=-1)))
    explode = {"class_path": "tests.test_bad_input.ExplodeAt", "init_args": {"step": 2}}
    config["trainer"]["callbacks"].append(explode)
    return config


def test_a_loss_that_is_not_a_number_ends_the_run_and_spares_the_checkpoints(
    tmp_path: Path,
) -> None:
    file = write(explosion(tmp_path / "saved"), tmp_path / "explode.yaml")
    said = refused("fit", "--config", file)
    assert "The training loss became infinite or not a number by step 3" in said
    assert "lower the learning rate" in said
    paths = list((tmp_path / "saved").iterdir())
    assert {path.name for path in paths} >= {"step=1.ckpt", "step=2.ckpt", "last.ckpt"}
    for path in paths:  # all that are there can be read, and none holds what is no number
        weights = load_checkpoint(path)["state_dict"].values()
        assert all(torch.isfinite(value).all() for value in weights)
    good = str(tmp_path / "saved/step=2.ckpt")
    assert wiring("test", "--config", file, "--ckpt_path", good).code == 0


@pytest.mark.parametrize("steps", [3, 4])
def test_a_loss_that_is_not_a_number_is_found_without_checkpoints_too(
    steps: int, tmp_path: Path
) -> None:
    config = explosion(tmp_path)
    config["trainer"] |= {"enable_checkpointing": False, "log_every_n_steps": 50}
    config["trainer"] |= {"limit_train_batches": 4, "max_epochs": 1}
    config["trainer"]["callbacks"].pop(1)
    config["trainer"]["callbacks"][-1]["init_args"]["step"] = steps - 2
    said = refused("fit", "--config", write(config, tmp_path / "explode.yaml"))
    assert "The training loss became infinite or not a number" in said


def test_weights_that_are_not_numbers_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    """The step that spoiled them still had a good loss."""
    config = explosion(tmp_path / "saved")
    config["trainer"]["callbacks"][-1] = {"class_path": "tests.test_bad_input.Spoils"}
    said = refused("fit", "--config", write(config, tmp_path / "spoil.yaml"))
    assert "Values of backbone.classifier.bias" in said
    assert "became infinite or not a number by step 3" in said
    last = load_checkpoint(tmp_path / "saved/last.ckpt")
    assert last["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())


@pytest.fixture
def tiny_disk(run: tuple[str, bytes], tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = len(run[1]) * 3 // 2
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_spares_the_checkpoint_that_was_there(tiny_disk: Path, tmp_path: Path) -> None:
    config = config_with(trainer(callbacks=with_saver(tiny_disk, save_top_k=0)))
    file = write(config, tmp_path / "full.yaml")
    said = refused("fit", "--config", file)
    assert f"The checkpoint {tiny_disk / 'last.ckpt'} could not be written" in said
    assert "No space left on device" in said
    assert "make room" in said
    assert [path.name for path in tiny_disk.iterdir()] == ["last.ckpt"]
    assert load_checkpoint(tiny_disk / "last.ckpt")["global_step"] == 1
    assert wiring("test", "--config", file, "--ckpt_path", str(tiny_disk / "last.ckpt")).code == 0


def half_written(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        file.write(bytes(content)[: len(content) // 2])
    raise OSError(28, "No space left on device")


def test_a_write_that_breaks_off_spares_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "new folder/last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"value": torch.ones(9)}, path)
    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(CheckpointError, match=r"last\.ckpt could not be written \(No space left"):
        writer.save_checkpoint({"value": torch.zeros(9)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert same_state(writer.load_checkpoint(path), {"value": torch.ones(9)})


def test_a_write_that_is_killed_spares_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"value": torch.ones(9)}, path)

    def killed(path: Path, content: Any) -> None:
        try:
            half_written(path, content)
        except OSError:
            raise KeyboardInterrupt from None

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"value": torch.zeros(9)}, path)
    assert same_state(writer.load_checkpoint(path), {"value": torch.ones(9)})
    writer.save_checkpoint({"value": torch.zeros(9)}, path)  # what was left is in nobody's way
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    config = config_with(trainer(callbacks=with_saver(tmp_path / "taken")))
    said = refused("fit", "--config", write(config, tmp_path / "taken.yaml"))
    assert str(tmp_path / "taken") in said


class Interrupts(Callback):
    """What Ctrl+C does in the second step, or while the run is tested."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.when == "training" and trainer.global_step == 2:
            raise KeyboardInterrupt

    def on_test_start(self, *_: Any) -> None:
        if self.when == "testing":
            raise KeyboardInterrupt

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.when == "drawing":
            pl_module.backbone.wiring = self.interrupt

    def interrupt(self) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["training", "testing", "drawing"])
def test_an_interrupt_ends_without_report_and_traceback(when: str, tmp_path: Path) -> None:
    config = config_with(trainer(callbacks=with_saver(tmp_path / "saved"), limit_test_batches=1))
    interrupts = {"class_path": "tests.test_bad_input.Interrupts", "init_args": {"when": when}}
    config["trainer"]["callbacks"].append(interrupts)
    before = signal.getsignal(signal.SIGINT)
    try:
        run = wiring("fit", "--config", write(config, tmp_path / "interrupted.yaml"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.code == 1
    assert "Traceback" not in run.err
    assert "after pruning" not in run.out
    step = load_checkpoint(tmp_path / "saved/last.ckpt")["global_step"]
    assert step == (1 if when == "training" else 4)
