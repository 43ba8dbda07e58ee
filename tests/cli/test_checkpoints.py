"""What a later command makes of the config and the checkpoint of a run."""

import re
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI
from torch import nn

from tests.cli.commands import BASE, Trained, checkpoint_in, refused, succeed, weights_in, write
from tests.trainers import same_state
from wiring_lightning.checkpoints import load_checkpoint
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask


def measured(out: str) -> dict[str, float]:
    """The numbers in Lightning's table, drawn with or without rich."""
    return {name: float(value) for name, value in re.findall(r"(\w+/\w+) +│? +([\d.e-]+)", out)}


@pytest.mark.parametrize("source", ["saved", "written"])
def test_a_checkpoint_tests_as_the_run_reported(source: str, trained: Trained, base: str) -> None:
    given = ("--config", trained.config if source == "saved" else base)
    numbers = measured(succeed("test", *given, "--ckpt_path", trained.checkpoint))
    assert f"{numbers['test/acc']:.4f}" == trained.reported("test acc")
    assert f"{numbers['test/loss']:.4f}" == trained.reported("test loss")
    if source == "saved":
        with pytest.warns(UserWarning, match="without --ckpt_path runs a network that was not tr"):
            untrained = measured(succeed("test", *given))
        assert untrained["test/loss"] != numbers["test/loss"]


def test_a_checkpoint_validates_and_predicts(trained: Trained) -> None:
    given = ("--config", trained.config, "--ckpt_path", trained.checkpoint)
    numbers = measured(succeed("validate", *given))
    assert {"val/acc", "val/loss", "val/acc_top5"} == numbers.keys()
    succeed("predict", *given)
    (path,) = trained.folder.parent.rglob("predictions.pt")
    probabilities = torch.load(path, weights_only=True)
    data = Digits()
    data.setup("predict")
    labels = torch.cat([labels for _, labels in data.predict_dataloader()])
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(labels)))
    accuracy = (probabilities.argmax(1) == labels).float().mean()
    assert f"{accuracy:.4f}" == trained.reported("test acc")


def test_a_run_resumes_from_its_config_and_checkpoint(tmp_path: Path) -> None:
    config = deepcopy(BASE)
    saver = {"dirpath": str(tmp_path / "whole"), "filename": "{epoch}", "save_top_k": -1}
    callback = {"class_path": "ModelCheckpoint", "init_args": saver}
    config["data"]["init_args"]["batch_size"] = 16
    config["trainer"] |= {"max_epochs": 2, "limit_train_batches": 3, "limit_test_batches": 1}
    config["trainer"]["callbacks"].append(callback)
    file = write(config, tmp_path / "resume.yaml")
    whole = succeed("fit", "--config", file, "--trainer.default_root_dir=whole")
    resumed = succeed(
        "fit",
        "--config",
        str(next((tmp_path / "whole").rglob("config.yaml"))),
        f"--ckpt_path={tmp_path / 'whole' / 'epoch=0.ckpt'}",
        "--trainer.default_root_dir=resumed",
        f"--trainer.callbacks.dirpath={tmp_path / 'resumed'}",  # the last callback's
    )
    first, second = (tmp_path / name / "epoch=1.ckpt" for name in ("whole", "resumed"))
    assert same_state(weights_in(first), weights_in(second))
    assert not (tmp_path / "resumed" / "epoch=0.ckpt").exists()
    losses = [Trained(tmp_path, "", "", out).reported("test loss") for out in (whole, resumed)]
    assert losses[0] == losses[1]


class Remembers(ClassificationTask):
    """Saves its hyper-parameters, as most LightningModules do."""

    smoothing: float

    def __init__(self, backbone: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__(backbone, label_smoothing=label_smoothing)
        self.save_hyperparameters(ignore="backbone")
        Remembers.smoothing = label_smoothing


def test_the_command_line_wins_over_the_hyper_parameters_of_a_checkpoint(tmp_path: Path) -> None:
    config = deepcopy(BASE)
    config["model"]["class_path"] = "tests.cli.test_checkpoints.Remembers"
    config["model"]["init_args"]["label_smoothing"] = 0.25
    config["trainer"] |= {"limit_train_batches": 1, "limit_test_batches": 1}
    file = write(config, tmp_path / "remembers.yaml")
    succeed("fit", "--config", file)
    checkpoint = checkpoint_in(tmp_path)
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["label_smoothing"] == Remembers.smoothing == 0.25
    succeed("test", "--config", file, f"--ckpt_path={checkpoint}", "--model.label_smoothing=0.5")
    assert Remembers.smoothing == 0.5


class Built(LightningCLI):
    """Lightning's own command line, without what the command does."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize("by_class_path", [True, False])
def test_the_command_line_of_lightning_wins_over_a_checkpoint(
    by_class_path: bool, trained: Trained
) -> None:
    command = ["fit", *by_class_path * ["--model=wiring_lightning.tasks.ClassificationTask"],
               "--model.backbone=wiring_lightning.backbones.ResNeXt", "--model.label_smoothing=0.5",
               f"--ckpt_path={trained.checkpoint}", "--trainer.barebones=true"]  # fmt: skip
    cli = Built(
        LightningModule if by_class_path else ClassificationTask,
        Digits,
        seed_everything_default=False,
        subclass_mode_model=by_class_path,
        args=command,
    )
    assert cli.model.label_smoothing == 0.5


SLOW = pytest.mark.slow
HYPER_PARAMETERS = {
    "functools.partial": {"optimizer": partial(torch.optim.SGD, lr=0.1)},
    "lightning.fabric.utilities.data.AttributeDict": AttributeDict(root=Path("x")),
}


@pytest.mark.parametrize(
    ("subcommand", "kind"),
    [
        ("test", "functools.partial"),
        *(
            pytest.param(subcommand, "lightning.fabric.utilities.data.AttributeDict", marks=SLOW)
            for subcommand in ("fit", "predict")
        ),
    ],
)
def test_other_hyper_parameters_are_no_damage_and_the_sentence_names_a_way(
    subcommand: str, kind: str, trained: Trained, base: str, tmp_path: Path
) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    torch.save(content | {"hyper_parameters": HYPER_PARAMETERS[kind]}, tmp_path / "other.ckpt")
    short = ("--trainer.max_epochs=2",) * (subcommand == "fit")
    short += tuple(f"--trainer.limit_{name}_batches=1" for name in ("test", "predict"))
    given = (subcommand, "--config", base, "--ckpt_path=other.ckpt", *short)
    said = refused(*given)
    assert f"holds more than weights ({kind})" in said
    assert "damaged" not in said
    (way,) = re.findall(r"--weights_only false", said)
    succeed(*given, *way.split())
    if subcommand == "fit":
        assert load_checkpoint(checkpoint_in(tmp_path / "lightning_logs"))["global_step"] == 20
