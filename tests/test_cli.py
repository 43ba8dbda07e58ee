"""The command line, from `--help` to the table at the end of a run."""

import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

import wiring_lightning.backbones
import wiring_lightning.callbacks
import wiring_lightning.data
import wiring_lightning.tasks
from tests.trainers import same_state
from wiring_lightning.__main__ import SUBCOMMANDS, main
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.data import Digits
from wiring_lightning.nn import find_gates
from wiring_lightning.tasks import ClassificationTask

ROOT = Path(__file__).parents[1]

# One epoch of ten steps on the handwritten digits; K = 1 leaves branches that nobody listens to.
BASE: dict[str, Any] = {
    "seed_everything": 3,
    "model": {
        "class_path": "ClassificationTask",
        "init_args": {
            "backbone": {
                "class_path": "ResNeXt",
                "init_args": {
                    "depth": 11,
                    "width": 2,
                    "cardinality": 6,
                    "fan_in": 1,
                    "in_channels": 1,
                    "image_size": 8,
                },
            },
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 64}},
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "limit_train_batches": 10,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "MaskConnect", "init_args": {"lr": 0.5}}],
    },
}
BACKBONE = "--model.backbone."


@dataclass
class Run:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str


def wiring(*arguments: str) -> Run:
    """Run a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Run(code, out.getvalue(), err.getvalue())


def succeed(*arguments: str) -> str:
    """Run a command that should succeed, and return what it wrote to stdout."""
    run = wiring(*arguments)
    assert run.code == 0, run.err
    return run.out


def process(*command: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command of its own in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def write(config: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


def checkpoint_in(folder: Path) -> Path:
    """The only checkpoint below a folder."""
    (path,) = folder.rglob("*.ckpt")
    return path


def weights_in(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what `seed_everything` leaves behind
    monkeypatch.delenv("WIRING_DEBUG", raising=False)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return write(BASE, tmp_path / "base.yaml")


@dataclass
class Trained:
    """A finished run."""

    folder: Path
    config: str
    checkpoint: str
    report: str

    def reported(self, label: str) -> str:
        (text,) = re.findall(rf"^{label}  +(.+)$", self.report, flags=re.MULTILINE)
        return text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        report = succeed(
            "fit", "--config", write(BASE, root / "base.yaml"), f"--trainer.default_root_dir={root}"
        )
        checkpoint = checkpoint_in(root)
        folder = checkpoint.parents[1]
        yield Trained(folder, str(folder / "config.yaml"), str(checkpoint), report)


# Help and configs


def test_help_is_fast_and_does_not_load_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from wiring_lightning.__main__ import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'matplotlib')))"
    )
    start = time.perf_counter()
    running = process("-c", code, folder=tmp_path)
    out, err = running.communicate(timeout=60)
    assert time.perf_counter() - start < 3
    assert running.returncode == 0, err
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in SUBCOMMANDS)


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_help_needs_no_argument(arguments: tuple[str, ...]) -> None:
    assert succeed(*arguments).startswith("usage: wiring")


def test_version() -> None:
    assert succeed("--version") == f"wiring_lightning {wiring_lightning.__version__}\n"


@pytest.mark.parametrize("subcommand", [name for name in SUBCOMMANDS if name != "figure"])
def test_every_subcommand_has_help(subcommand: str) -> None:
    out = succeed(subcommand, "--help")
    assert out.startswith(f"usage: wiring [options] {subcommand} ")
    for option in ("--config", "--model", "--data", "--ckpt_path", "--print_config"):
        assert option in out
    for name in ("MaskConnect", "PhaseSchedule", "WiringMonitor"):
        assert f"wiring_lightning.callbacks.{name}" in "".join(out.split())


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("callback", [MaskConnect, PhaseSchedule])
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
        *((("--trainer.callbacks.help",), name, "callbacks")
          for name in public(wiring_lightning.callbacks, Callback)
          if name != "WiringCallback"),
        *((("--data.help",), name, "data") for name in ("Digits", "CIFAR10", "CIFAR100",
                                                        "FashionMNIST")),
        *((("--model.help",), name, "tasks")
          for name in public(wiring_lightning.tasks, LightningModule)),
        *((("--model=ClassificationTask", "--model.backbone.help"), name, "backbones")
          for name in public(wiring_lightning.backbones, nn.Module)),
    ],
)  # fmt: skip
def test_short_names_are_enough(options: tuple[str, ...], name: str, package: str) -> None:
    *before, last = options
    out = succeed("fit", *before, f"{last}={name}")
    assert f"wiring_lightning.{package}.{name}" in squeezed(out)


def test_a_value_on_the_command_line_wins_over_the_config(base: str) -> None:
    out = succeed("fit", "--config", base, f"{BACKBONE}fan_in=2", "--data.seed=7", "--print_config")
    config = yaml.safe_load(out)
    assert config["model"]["init_args"]["backbone"]["init_args"]["fan_in"] == 2
    assert config["data"]["init_args"]["seed"] == 7


# Fit


@pytest.mark.slow
def test_all_three_ways_to_start_do_the_same(trained: Trained, tmp_path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        script = tomllib.load(file)["project"]["scripts"]["wiring"]
    assert script == f"{main.__module__}:{main.__name__}"
    folders = {name: tmp_path / name for name in ("module", "checkout")}
    for folder in folders.values():
        folder.mkdir()
    base = ["fit", "--config", write(BASE, tmp_path / "base.yaml")]
    runs = {
        "module": process("-m", "wiring_lightning", *base, folder=folders["module"]),
        "checkout": process(str(ROOT / "cli.py"), *base, folder=folders["checkout"]),
    }
    expected = weights_in(Path(trained.checkpoint))
    for name, running in runs.items():
        out, err = running.communicate(timeout=300)
        assert running.returncode == 0, err
        assert trained.reported("test acc") in out
        assert same_state(weights_in(checkpoint_in(folders[name])), expected)


def test_the_report_has_everything(trained: Trained) -> None:
    assert 0 < float(trained.reported("test acc")) < 1
    total, live = re.match(r"([\d,]+) -> ([\d,]+) after", trained.reported("parameters")).groups()
    assert int(live.replace(",", "")) < int(total.replace(",", ""))
    modules = re.findall(r"(module\d) (\d)/6", trained.reported("live branches"))
    assert [name for name, _ in modules] == ["module1", "module2", "module3"]
    assert any(int(count) < 6 for _, count in modules)
    assert Path(trained.reported("picture")).read_bytes().startswith(b"\x89PNG")
    assert trained.reported("curves") == f"tensorboard --logdir {trained.folder}"
    assert list(trained.folder.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_the_quick_start_in_short(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
    callbacks = config["trainer"]["callbacks"]
    (phases,) = [c["init_args"]["phases"] for c in callbacks if "Phase" in c["class_path"]]
    for phase in phases:
        phase["epochs"] = 1
    out = succeed(
        "fit",
        f"--config={ROOT / 'configs/quickstart.yaml'}",
        "--trainer.accelerator=cpu",
        "--trainer.limit_train_batches=2",
        f"--trainer.callbacks={json.dumps(callbacks)}",
    )
    report = Trained(tmp_path, "", "", out)
    assert 0 < float(report.reported("test acc")) < 1
    assert re.fullmatch(
        r"[\d,]+ -> [\d,]+ after pruning \([\d.]+%\)", report.reported("parameters")
    )
    listed = out[out.index("\nlive branches") : out.index("\npicture")]
    depth = config["model"]["init_args"]["backbone"]["init_args"]["depth"]
    modules = range(1, (depth - 2) // 3 + 1)
    assert re.findall(r"module\d+", listed) == [f"module{i}" for i in modules]
    assert Path(report.reported("picture")).stat().st_size > 10_000
    folder = Path(report.reported("curves").removeprefix("tensorboard --logdir "))
    assert list(folder.glob("events.out.tfevents.*"))
    for shown in ("train/loss", "train/acc", "val/acc", "phase"):  # the progress bar
        assert re.search(rf"\b{shown}[:=]", out), shown
    saved = torch.load(checkpoint_in(folder), weights_only=True)
    assert saved["epoch"] + 1 == len(phases)
    assert all(value for name, value in saved["state_dict"].items() if name.endswith("frozen"))


def test_no_tensorboard_line_without_tensorboard(base: str, tmp_path: Path) -> None:
    out = succeed(
        "fit",
        f"--config={base}",
        "--trainer.logger=false",
        "--trainer.limit_train_batches=1",
        "--trainer.limit_test_batches=1",
        "--trainer.enable_checkpointing=false",
    )
    assert "tensorboard --logdir" not in out
    assert Path(Trained(tmp_path, "", "", out).reported("picture")).exists()


def test_a_fast_dev_run_ends_without_a_report(base: str, tmp_path: Path) -> None:
    out = succeed("fit", "--config", base, "--trainer.fast_dev_run=1")
    assert "after pruning" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]


# Inspect

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
    out, err = running.communicate(timeout=120)
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


def network_of(checkpoint: str, **changes: Any) -> ResNeXt:
    sizes = BASE["model"]["init_args"]["backbone"]["init_args"]
    network = ResNeXt(**{**sizes, **changes})
    weights = weights_in(Path(checkpoint)).items()
    network.load_state_dict({name.removeprefix("backbone."): value for name, value in weights})
    return network


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


# The config and the checkpoint of a run


class Keeps(Callback):
    """Keeps the predictions, which the command line does not show."""

    predictions: list[Tensor]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Keeps.predictions = trainer.predict_loop.predictions


def measured(out: str) -> dict[str, float]:
    """The numbers in Lightning's table, drawn with or without rich."""
    return {name: float(value) for name, value in re.findall(r"(\w+/\w+) +│? +([\d.e-]+)", out)}


@pytest.mark.parametrize("source", ["saved", "written"])
def test_a_checkpoint_tests_as_the_run_reported(source: str, trained: Trained, base: str) -> None:
    given = ("--config", trained.config if source == "saved" else base)
    numbers = measured(succeed("test", *given, "--ckpt_path", trained.checkpoint))
    assert f"{numbers['test/acc']:.4f}" == trained.reported("test acc")
    assert f"{numbers['test/loss']:.4f}" == trained.reported("test loss")
    untrained = measured(succeed("test", *given))
    assert untrained["test/loss"] != numbers["test/loss"]


def test_a_checkpoint_validates_and_predicts(trained: Trained) -> None:
    given = ("--config", trained.config, "--ckpt_path", trained.checkpoint)
    numbers = measured(succeed("validate", *given))
    assert {"val/acc", "val/loss", "val/acc_top5"} == numbers.keys()
    keeps = '{"class_path": "tests.test_cli.Keeps"}'
    succeed("predict", *given, f"--trainer.callbacks+={keeps}")
    probabilities = torch.cat(Keeps.predictions)
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
    config["model"]["class_path"] = "tests.test_cli.Remembers"
    config["model"]["init_args"]["label_smoothing"] = 0.25
    config["trainer"] |= {"limit_train_batches": 1, "limit_test_batches": 1}
    file = write(config, tmp_path / "remembers.yaml")
    succeed("fit", "--config", file)
    checkpoint = checkpoint_in(tmp_path)
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["label_smoothing"] == Remembers.smoothing == 0.25
    succeed("test", "--config", file, f"--ckpt_path={checkpoint}", "--model.label_smoothing=0.5")
    assert Remembers.smoothing == 0.5
