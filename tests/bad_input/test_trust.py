"""A config builds known kinds of classes only; one that is looked at builds only a backbone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import _typehints
from torch import nn

from tests.bad_input.configs import Change, callbacks, config_with, model, trainer
from tests.cli.commands import refused, succeed, wiring, write
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.cli.trust import UntrustedError, data_config
from wiring_lightning.tasks import ClassificationTask

RUN = {"class_path": "os.system", "init_args": {"command": "touch it_ran"}}
START = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "it_ran"]}}


def a_class(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


class Untyped(nn.Module):
    """A network with an argument of any type, as many have."""

    num_classes = 10

    def __init__(self, part) -> None:
        super().__init__()
        self.part = part
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))


def untyped(part: Any) -> Change:
    return model(backbone=a_class("tests.bad_input.test_trust.Untyped", part=part))


LAMBDA = "torch.optim.lr_scheduler.LambdaLR"
WRONG_KINDS: dict[str, tuple[Change, str]] = {
    "a function as optimizer": (model(optimizer=RUN), "os.system"),
    "the name of one": (model(optimizer="os.system"), "os.system"),
    "a process as optimizer": (model(optimizer=START), "subprocess.Popen is no Optimizer"),
    "a layer as optimizer": (
        model(optimizer=a_class("torch.nn.Linear", in_features=2, out_features=3)),
        "torch.nn.Linear is no Optimizer",
    ),
    "a function as scheduler": (model(lr_scheduler=RUN), "os.system"),
    "a function inside a scheduler": (
        model(lr_scheduler=a_class(LAMBDA, lr_lambda=RUN)),
        "os.system is no class",
    ),
    "a function in a list there": (
        model(lr_scheduler=a_class(LAMBDA, lr_lambda=[RUN])),
        "os.system",
    ),
    "a function as backbone": (model(backbone=RUN), "os.system is no Module"),
    "a callback as backbone": (
        model(backbone=a_class("MaskConnect")),
        "MaskConnect",
    ),
    "a function as model": (lambda config: config.update(model=RUN), "is no LightningModule"),
    "a function as data": (lambda config: config.update(data=RUN), "is no LightningDataModule"),
    "a function as callback": (trainer(callbacks=[RUN]), "os.system is no Callback"),
    "an only callback": (trainer(callbacks=START), "subprocess.Popen"),
    "a function as logger": (trainer(logger=RUN), "os.system is no Logger"),
    "a function in a list of loggers": (trainer(logger=[START]), "subprocess.Popen"),
    "a function as strategy": (trainer(strategy=RUN), "os.system is no Strategy"),
    "a function as profiler": (trainer(profiler=RUN), "os.system is no Profiler"),
    "a function as plugin": (trainer(plugins=[RUN]), "os.system"),
    "a function as cost": (
        callbacks(("BudgetedSearch", {"budget": 1e4, "cost": RUN})),
        "os.system is no ConfiguredCost",
    ),
    "a function where any value may stand": (untyped(RUN), "os.system is no module"),
    "a process there": (untyped(START), "subprocess.Popen is no module"),
    "a process in a list there": (untyped([1, START]), "subprocess.Popen is no module"),
    "a process in a mapping there": (untyped({"a": START}), "subprocess.Popen is no module"),
}


@pytest.mark.parametrize(
    ("subcommand", "name"),
    [*(("fit", name) for name in WRONG_KINDS), ("test", "a function as optimizer")],
)
def test_a_class_of_another_kind_is_refused_by_name_and_not_called(
    subcommand: str, name: str, tmp_path: Path
) -> None:
    change, expected = WRONG_KINDS[name]
    said = refused(subcommand, "--config", write(config_with(change), tmp_path / "bad.yaml"))
    assert expected in said
    assert not Path("it_ran").exists()


def test_modules_are_built_where_any_value_may_stand(tmp_path: Path) -> None:
    layer = a_class("torch.nn.Linear", in_features=2, out_features=3)
    config = config_with(untyped(layer), trainer(fast_dev_run=True, callbacks=None))
    succeed("fit", "--config", write(config, tmp_path / "good.yaml"))


# The folder of a stranger

EVIL = """
from pathlib import Path
Path("it_was_imported").touch()
import torch, lightning.pytorch as pl
class Net(torch.nn.Sequential):
    num_classes = 10
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))
class Sgd(torch.optim.SGD): pass
class Back(pl.Callback): pass
class Data(pl.LightningDataModule): pass
class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()
"""
ALL_EVIL = {
    "trainer": {"callbacks": [a_class("evil.Back")], "logger": a_class("evil.Nothing")},
    "data": a_class("evil.Data"),
}


@pytest.fixture
def run_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good network, and code of its own for everything else."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    config = config_with(model(optimizer=a_class("evil.Sgd"), lr_scheduler=RUN))
    arguments = config["model"]["init_args"]["backbone"]["init_args"]
    folder = tmp_path / "version_0"
    folder.mkdir()
    write({**config, **ALL_EVIL}, folder / "config.yaml")
    state = ClassificationTask(ResNeXt(**arguments)).state_dict()
    torch.save({"state_dict": state, "global_step": 1}, folder / "last.ckpt")
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    write({**config, **changes}, path)


def nothing_ran() -> bool:
    return not any(Path(name).exists() for name in ("it_ran", "it_was_imported"))


def test_what_is_looked_at_runs_nothing(run_of_a_stranger: Path) -> None:
    config, checkpoint = run_of_a_stranger / "config.yaml", run_of_a_stranger / "last.ckpt"
    shown = succeed("inspect", "--config", str(config), "--ckpt_path", str(checkpoint))
    assert "after pruning" in shown
    succeed("inspect", "--config", str(config), "--format=json")
    succeed("figure", "active", str(run_of_a_stranger))
    succeed("figure", "connectivity", str(run_of_a_stranger))
    assert "has no test accuracy" in refused("figure", "accuracy", str(run_of_a_stranger))
    assert "has no validation accuracy" in refused("pareto", str(run_of_a_stranger))
    assert nothing_ran()


def foreign(folder: Path, backbone: Any) -> None:
    task = {"class_path": "ClassificationTask", "init_args": {"backbone": backbone}}
    change_config(folder, model=task)


def looked_at(folder: Path, *more: str) -> list[tuple[str, ...]]:
    inspect = ("inspect", "--config", str(folder / "config.yaml"), *more)
    return [inspect, ("figure", "active", str(folder), *more)]


@pytest.mark.parametrize("path", ["evil.Net", "torch.nn.Linear", "torchvision.models.ResNet"])
def test_a_network_from_outside_is_not_built(path: str, run_of_a_stranger: Path) -> None:
    foreign(run_of_a_stranger, a_class(path))
    for command in looked_at(run_of_a_stranger):
        said = refused(*command)
        assert f"model.backbone names {path}, which is no backbone of this package" in said
        assert "--trust" in said
    assert nothing_ran()


def test_trust_builds_it(run_of_a_stranger: Path) -> None:
    foreign(run_of_a_stranger, a_class("evil.Net"))
    (run_of_a_stranger / "last.ckpt").unlink()
    config = str(run_of_a_stranger / "config.yaml")
    assert "650" in succeed("inspect", "--config", config, "--trust")  # parameters of its layer
    said = refused("figure", "active", str(run_of_a_stranger), "--trust")
    assert "has no checkpoint" in said


def test_a_task_from_outside_is_not_built(run_of_a_stranger: Path) -> None:
    change_config(run_of_a_stranger, model=a_class("evil.Task"))
    for command in looked_at(run_of_a_stranger):
        assert "names evil.Task, which is no task of this package" in refused(*command)
    assert nothing_ran()
    succeed("inspect", "--config", str(run_of_a_stranger / "config.yaml"), "--trust")


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "ResNeXt", "init_args": {"depth": RUN}},
        {"class_path": "ResNeXt", "init_args": RUN},
        {"class_path": "ResNeXt", "dict_kwargs": {"depth": RUN}},
        {"class_path": "ResNeXt", "init_args": "other.yaml"},
        "other.yaml",
        "evil.Net",
        {"class_path": "wiring_lightning.backbones.evil"},
        {"class_path": "wiring_lightning.cli.app.os.system"},
        {"class_path": ["evil.Net"]},
        [],
        3,
        None,
    ],
)
def test_there_is_no_way_around_it(spec: Any, run_of_a_stranger: Path, tmp_path: Path) -> None:
    write({"class_path": "evil.Net"}, tmp_path / "other.yaml")
    foreign(run_of_a_stranger, spec)
    change_config(run_of_a_stranger, trust=True)
    for command in looked_at(run_of_a_stranger):
        run = wiring(*command)
        assert (run.code, "Traceback" in run.err) in ((0, False), (2, False))
    assert nothing_ran()


def test_a_config_that_is_looked_at_writes_no_file(run_of_a_stranger: Path) -> None:
    change_config(run_of_a_stranger, figure="drawn.png", found="found", format="json")
    before = sorted(path.name for path in Path().iterdir())
    json.loads(succeed("inspect", "--config", str(run_of_a_stranger / "config.yaml")))
    assert sorted(path.name for path in Path().iterdir()) == before


def test_options_of_training_have_no_effect_on_inspect(run_of_a_stranger: Path) -> None:
    config = str(run_of_a_stranger / "config.yaml")
    options = ("--data.root=there", "--data", "evil.Data", "--trainer.callbacks+=evil.Back")
    assert succeed("inspect", "--config", config) == succeed(
        "inspect", "--config", config, *options
    )
    said = refused("inspect", "--config", config, "--found=found", "--trainer.max_epochs=3")
    assert "--found copies what the config says, so --trainer.max_epochs has no effect" in said
    assert nothing_ran()


def test_inspect_needs_no_data(tmp_path: Path) -> None:
    config = config_with()
    del config["data"], config["trainer"]
    assert "after pruning" in succeed("inspect", "--config", write(config, tmp_path / "c.yaml"))
    assert "after pruning" in succeed("inspect", "--model=ClassificationTask",
                                      "--model.backbone=ResNeXt")  # fmt: skip


def test_the_subcommand_of_a_config_file_is_not_a_way_in(tmp_path: Path) -> None:
    file = write({"inspect": {"model": a_class("evil.Task")}}, tmp_path / "c.yaml")
    for given in (["--config", file, "inspect"], [f"--config={file}", "inspect"],
                  ["--config", file], ["--config", file, "fit"]):  # fmt: skip
        assert "the subcommand comes first" in refused(*given)


def test_help_says_what_weights_only_allows() -> None:
    for subcommand in ("fit", "validate", "test", "predict"):
        text = " ".join(succeed(subcommand, "--help").split())
        assert "false lets it name any function, which is called while it is read" in text


def test_other_parsers_of_the_process_stay_as_they_were(tmp_path: Path) -> None:
    before = _typehints.adapt_typehints, _typehints.adapt_classes_any
    refused("fit", "--config", write(config_with(model(optimizer=RUN)), tmp_path / "bad.yaml"))
    succeed("inspect", "--config", write(config_with(), tmp_path / "good.yaml"))
    assert (_typehints.adapt_typehints, _typehints.adapt_classes_any) == before


@pytest.mark.parametrize("value", [{"class_path": "os.system"}, [1, [{"class_path": "os.system"}]]])
def test_data_of_this_package_take_plain_values_only(value: object) -> None:
    data = {"class_path": "ImageFolder", "init_args": {"root": "pictures", "class_names": value}}
    with pytest.raises(UntrustedError, match="takes plain values only"):
        data_config(data, False, "config.yaml")
    data["init_args"]["class_names"] = ["cat", "dog"]
    built = data_config(data, False, "config.yaml")
    assert built["class_path"] == "wiring_lightning.data.ImageFolder"
