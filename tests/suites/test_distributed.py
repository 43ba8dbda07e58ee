"""Two processes hold the same wiring at every step and learn what one process would."""

import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import yaml
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor

from tests.methods import LEARNERS, SCORED, Method, digits, freeze_batch_norm, named, over
from tests.trainers import Recorder
from wiring_lightning.callbacks import MaskSchedule, Phase, PhaseSchedule
from wiring_lightning.cli import main
from wiring_lightning.nn import Gate

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("workplace")]


@dataclass(frozen=True)
class Ranks:
    """Where two ranks wrote what they saw of each method, and the error that ended them."""

    folder: Path
    error: str = "the ranks did not come to it"


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


BATCH = 16  # images of a step, of all ranks together
SETTINGS: dict[str, Any] = {
    "accelerator": "cpu",
    "precision": "64-true",  # float32 may round a ReLU to its other side
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 2,
    "limit_train_batches": 4,
    "limit_val_batches": 1,
}
# Without a callback there is nothing to agree on but a random wiring.
AGREEING = [m for m in LEARNERS if m.callbacks or m.arguments.get("wiring") == "random"]
BASE = named("resnext-learned")
COVERED = Method("covered", BASE.backbone, {**BASE.arguments, "wiring": "covered"})


def _fit(method: Method, folder: Path, devices: int) -> None:
    """Learns for an epoch, and for one after the freeze."""
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(3)
    callbacks = method.new_callbacks()
    if method.callbacks:
        callbacks.append(PhaseSchedule([Phase(1, method.lr), Phase(1, method.lr, freeze=True)]))
    strategy = "ddp" if devices > 1 else "auto"
    seen = SameOnAllRanks(str(folder))
    trainer = Trainer(devices=devices, strategy=strategy, callbacks=[*callbacks, seen], **SETTINGS)
    trainer.fit(method.task(), digits(BATCH // devices))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Two ranks, forked from a process that has imported everything and done nothing yet.

    They fit one method after another; an error ends both.
    """
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        torch.multiprocessing.start_processes(
            _rank, (folder, port), nprocs=2, start_method="forkserver"
        )
    except torch.multiprocessing.ProcessRaisedException as error:
        return Ranks(folder, str(error))
    return Ranks(folder)


def _rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)})
    for method in [*AGREEING, COVERED]:
        _fit(method, folder / method.name, 2)


def _config(method: Method, folder: Path, devices: int) -> Path:
    """The same for the command line, which tests the network, too."""
    folder.mkdir()
    parts = method.config()
    phases = [{"epochs": 1, "lr": method.lr}, {"epochs": 1, "lr": method.lr, "freeze": True}]
    path = f"{SameOnAllRanks.__module__}.{SameOnAllRanks.__qualname__}"
    callbacks = [
        *parts["callbacks"],
        {"class_path": "PhaseSchedule", "init_args": {"phases": phases}},
        {"class_path": path, "init_args": {"folder": str(folder)}},
    ]
    options = {
        "devices": devices,
        "strategy": "ddp" if devices > 1 else "auto",
        "default_root_dir": str(folder),
        "limit_test_batches": 1,
        "callbacks": callbacks,
    }
    config = {
        "seed_everything": 3,
        "model": parts["model"],
        "data": {"class_path": "Digits", "init_args": {"batch_size": BATCH // devices}},
        "trainer": {**SETTINGS, **options},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def _command(file: Path) -> None:
    """The command line, which starts the other rank itself."""
    command = [sys.executable, "cli.py", "fit", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _compare(method: Method, two: Path, one: Path) -> None:
    files = [two / "rank0.pt", two / "rank1.pt", one / "rank0.pt"]
    *both, alone = [torch.load(file, weights_only=True) for file in files]
    assert [seen["world"] for seen in both] == [2, 2]
    assert len(both[0]["scores"]) == len(alone["scores"]) == 8
    if method.callbacks:  # four learning steps, and four after the freeze
        assert not torch.equal(alone["scores"][0], alone["scores"][3])
        first, last = alone["active"][4], alone["active"][7]
        # A weight that came just before the freeze is zero until it gets a gradient.
        came = issubclass(method.callbacks[0][0], MaskSchedule)
        assert torch.equal(first & last, first) if came else torch.equal(first, last)
    if method in SCORED:
        assert torch.equal(alone["scores"][4], alone["scores"][7])
        kept = torch.equal(alone["scores"][3], alone["scores"][4])
        assert kept != ("frozen scores" in method.without)
    if "cut batches" in method.without:
        return  # the ranks have been compared with each other
    for rank in both:
        for ours, expected in zip(rank["scores"], alone["scores"], strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)
        for ours, expected in zip(rank["active"], alone["active"], strict=True):
            assert torch.equal(ours, expected)
        torch.testing.assert_close(rank["state"], alone["state"], atol=1e-8, rtol=1e-8)


@over([*AGREEING, COVERED])
def test_two_ranks_agree_and_equal_one_rank_with_twice_the_batch(
    method: Method, ranks: Ranks, tmp_path: Path
) -> None:
    two = ranks.folder / method.name
    assert (two / "rank1.pt").exists(), ranks.error
    _fit(method, tmp_path, 1)
    _compare(method, two, tmp_path)


def test_ranks_that_the_command_line_starts_agree_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # new processes find the tests
    one, two = tmp_path / "one", tmp_path / "two"
    _command(_config(BASE, two, 2))
    main(["fit", "--config", str(_config(BASE, one, 1))])
    _compare(BASE, two, one)


def test_ranks_hold_one_wiring_in_which_every_source_is_read(ranks: Ranks) -> None:
    files = [ranks.folder / COVERED.name / f"rank{rank}.pt" for rank in range(2)]
    assert files[1].exists(), ranks.error
    gates = [torch.load(file, weights_only=True)["gates"] for file in files]
    assert gates[0]
    for first, second in zip(*gates, strict=True):
        assert torch.equal(first, second)
        assert torch.all(first.any(0))
        assert first.sum(1).tolist() == [2] * 4
