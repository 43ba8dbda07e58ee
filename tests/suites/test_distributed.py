"""Two processes hold the same wiring at every step and learn what one process would."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from tests.methods import METHODS, SCORED, Method, freeze_batch_norm, named, over
from tests.trainers import Recorder
from wiring_lightning.callbacks import MaskSchedule
from wiring_lightning.cli import main
from wiring_lightning.nn import Gate

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("workplace")]


class SameOnAllRanks(Recorder):
    """Stops the run at the first step in which two ranks differ, and saves what it saw."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        freeze_batch_norm(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        super().on_train_batch_end(trainer, pl_module)
        if trainer.world_size == 1:
            return
        own = _state(pl_module)
        everyone = [torch.empty_like(own) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, own)
        assert all(torch.equal(own, other) for other in everyone), "ranks differ"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen = {"scores": self.scores, "active": self.active, "world": trainer.world_size}
        seen["state"] = _state(pl_module)
        seen["gates"] = [gate.best for gate in pl_module.modules() if isinstance(gate, Gate)]
        torch.save(seen, self.folder / f"rank{trainer.global_rank}.pt")


def _state(module: LightningModule) -> Tensor:
    state = [value for value in module.state_dict().values() if value.dim()]
    return torch.cat([value.double().flatten() for value in state])


def _config(method: Method, folder: Path, devices: int) -> Path:
    folder.mkdir()
    parts = method.config()
    callbacks = list(parts["callbacks"])
    if method.callbacks:
        phases = [{"epochs": 1, "lr": method.lr}, {"epochs": 1, "lr": method.lr, "freeze": True}]
        callbacks.append({"class_path": "PhaseSchedule", "init_args": {"phases": phases}})
    path = f"{SameOnAllRanks.__module__}.{SameOnAllRanks.__qualname__}"
    callbacks.append({"class_path": path, "init_args": {"folder": str(folder)}})
    config = {
        "seed_everything": 3,
        "model": parts["model"],
        "data": {"class_path": "Digits", "init_args": {"batch_size": 64 // devices}},
        "trainer": {
            "accelerator": "cpu",
            "devices": devices,
            "strategy": "ddp" if devices > 1 else "auto",
            "precision": "64-true",  # float32 may round a ReLU to its other side
            "logger": False,
            "default_root_dir": str(folder),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 2,
            "limit_train_batches": 5,
            "limit_val_batches": 1,
            "limit_test_batches": 1,
            "callbacks": callbacks,
        },
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def _fork(file: Path) -> None:
    """Two ranks, forked from a process that has imported everything and done nothing yet."""
    multiprocessing.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, (str(file), port), nprocs=2, start_method="forkserver"
    )


def _rank(rank: int, file: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)})
    main(["fit", "--config", file])


def _command(file: Path) -> None:
    """The command line, which starts the other rank itself."""
    command = [sys.executable, "cli.py", "fit", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _compare(method: Method, folder: Path, start: Callable[[Path], None]) -> None:
    start(_config(method, folder / "two", 2))
    main(["fit", "--config", str(_config(method, folder / "one", 1))])
    files = ["two/rank0.pt", "two/rank1.pt", "one/rank0.pt"]
    *both, alone = [torch.load(folder / file, weights_only=True) for file in files]
    assert [seen["world"] for seen in both] == [2, 2]
    assert len(both[0]["scores"]) == len(alone["scores"]) == 10
    if method.callbacks:  # five learning steps, and five after the freeze
        assert not torch.equal(alone["scores"][0], alone["scores"][4])
        first, last = alone["active"][5], alone["active"][9]
        # A weight that came just before the freeze is zero until it gets a gradient.
        came = issubclass(method.callbacks[0][0], MaskSchedule)
        assert torch.equal(first & last, first) if came else torch.equal(first, last)
    if method in SCORED:
        assert torch.equal(alone["scores"][5], alone["scores"][9])
        kept = torch.equal(alone["scores"][4], alone["scores"][5])
        assert kept != ("frozen scores" in method.without)
    if "cut batches" in method.without:
        return  # the ranks have been compared with each other
    for rank in both:
        for ours, expected in zip(rank["scores"], alone["scores"], strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)
        for ours, expected in zip(rank["active"], alone["active"], strict=True):
            assert torch.equal(ours, expected)
        torch.testing.assert_close(rank["state"], alone["state"], atol=1e-8, rtol=1e-8)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes find the tests, wherever they start."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


# Without a callback there is nothing to agree on but a random wiring.
AGREEING = [m for m in METHODS if m.callbacks or m.arguments.get("wiring") == "random"]


@over(AGREEING)
def test_two_ranks_agree_and_equal_one_rank_with_twice_the_batch(
    method: Method, tmp_path: Path
) -> None:
    _compare(method, tmp_path, _fork)


def test_ranks_that_the_command_line_starts_agree_too(tmp_path: Path) -> None:
    _compare(named("resnext-learned"), tmp_path, _command)


def test_ranks_hold_one_wiring_in_which_every_source_is_read(tmp_path: Path) -> None:
    base = named("resnext-learned")
    covered = Method("covered", base.backbone, {**base.arguments, "wiring": "covered"})
    _compare(covered, tmp_path, _fork)
    files = ("two/rank0.pt", "two/rank1.pt", "one/rank0.pt")
    gates = [torch.load(tmp_path / file, weights_only=True)["gates"] for file in files]
    assert gates[0]
    for first, second, alone in zip(*gates, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, alone)
        assert torch.all(first.any(0))
        assert first.sum(1).tolist() == [2] * 4
