"""Commands of the tests, the config that most of them start from, and what they leave behind."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from wiring_lightning.backbones import ResNeXt
from wiring_lightning.cli import main

ROOT = Path(__file__).parents[2]

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


def network_of(checkpoint: str, **changes: Any) -> ResNeXt:
    sizes = BASE["model"]["init_args"]["backbone"]["init_args"]
    network = ResNeXt(**{**sizes, **changes})
    weights = weights_in(Path(checkpoint)).items()
    network.load_state_dict({name.removeprefix("backbone."): value for name, value in weights})
    return network


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
