"""Two processes hold the same wiring at every step and learn what one process would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import yaml
from lightning.pytorch import LightningModule, Trainer

from tests.methods import METHODS, SCORED, Method, freeze_batch_norm
from tests.trainers import Recorder
from wiring_lightning.cli import main

ROOT = Path(__file__).parents[2]


class SameOnAllRanks(Recorder):
    """Stops the run at the first step in which two ranks differ, and saves what it saw."""

    def __init__(self, folder: str, frozen_norm: bool = True) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.frozen_norm = frozen_norm

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.frozen_norm:
            freeze_batch_norm(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        super().on_train_batch_end(trainer, pl_module)
        if trainer.world_size == 1:
            return
        state = [value for value in pl_module.state_dict().values() if value.dim()]
        own = torch.cat([value.double().flatten() for value in state])
        everyone = [torch.empty_like(own) for _ in range(trainer.world_size)]
        torch.distributed.all_gather(everyone, own)
        assert all(torch.equal(own, other) for other in everyone), "ranks differ"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seen = {"scores": self.scores, "active": self.active, "world": trainer.world_size}
        torch.save(seen, self.folder / f"rank{trainer.global_rank}.pt")


def _fit(method: Method, folder: Path, devices: int, phases: list[dict[str, Any]]) -> list[Any]:
    folder.mkdir()
    parts = method.config()
    callbacks = list(parts["callbacks"])
    if method.callbacks:
        callbacks.append({"class_path": "PhaseSchedule", "init_args": {"phases": phases}})
    callbacks.append(
        {
            "class_path": "tests.suites.test_distributed.SameOnAllRanks",
            "init_args": {"folder": str(folder)},
        }
    )
    config = {
        "seed_everything": 3,
        "model": parts["model"],
        "data": {"class_path": "Digits", "init_args": {"batch_size": 64 // devices}},
        "trainer": {
            "accelerator": "cpu",
            "devices": devices,
            "strategy": "ddp" if devices > 1 else "auto",
            "logger": False,
            "default_root_dir": str(folder),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "max_epochs": 2,
            "limit_train_batches": 5,
            "callbacks": callbacks,
        },
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    if devices == 1:
        main(["fit", "--config", str(file)])  # saves the time that a new process takes to import
    else:
        _run_processes(file)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(devices)]


def _run_processes(config: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "cli.py", "fit", "--config", str(config)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


_PHASES = [{"epochs": 1, "lr": 0.05}, {"epochs": 1, "lr": 0.05, "freeze": True}]


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_two_ranks_agree_and_equal_one_rank_with_twice_the_batch(
    method: Method, tmp_path: Path
) -> None:
    both = _fit(method, tmp_path / "two", 2, _PHASES)
    (alone,) = _fit(method, tmp_path / "one", 1, _PHASES)
    assert both[0]["world"] == 2
    assert len(both[0]["scores"]) == len(alone["scores"])
    if method.callbacks:
        assert len(alone["scores"]) == 10  # five learning steps, and five after the freeze
        assert not torch.equal(alone["scores"][0], alone["scores"][4])
        assert torch.equal(alone["active"][5], alone["active"][9])
    if method in SCORED:
        assert torch.equal(alone["scores"][4], alone["scores"][9])
    if method.per_example:
        return  # the ranks have been compared with each other
    for rank in both:
        for ours, expected in zip(rank["scores"], alone["scores"], strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
        for ours, expected in zip(rank["active"], alone["active"], strict=True):
            assert torch.equal(ours, expected)
