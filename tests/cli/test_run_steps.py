"""What is advised if a run keeps only its best checkpoint does what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from tests.callbacks.reader import Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.checkpoints import load_checkpoint
from wiring_lightning.cli.run_steps import costs_apart
from wiring_lightning.cli.runs import Run

DATA = DataLoader(batches(1, torch.float32) * 2, batch_size=None)


class Worse(Reader):
    """The first of its epochs is the best one."""

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/loss", float(self.current_epoch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/acc", 0.5)


@pytest.mark.parametrize(
    ("others", "step"), [([], 2), ([ModelCheckpoint()], 6), ([ModelCheckpoint(save_last=True)], 6)]
)
def test_a_second_saver_without_a_monitor_keeps_the_end(
    others: list[ModelCheckpoint], step: int, tmp_path: Path
) -> None:
    best = ModelCheckpoint(monitor="val/loss", save_last=True)  # which alone keeps no end
    trainer = quiet_trainer(
        callbacks=[best, *others],
        logger=CSVLogger(tmp_path, "", "run"),
        max_epochs=3,
        limit_val_batches=1,
        enable_checkpointing=True,
    )
    module = Worse()
    trainer.fit(module, DATA, DATA)
    trainer.test(module, DATA, verbose=False)
    run = Run(tmp_path / "run", {})
    assert load_checkpoint(run.checkpoint())["global_step"] == step
    said = costs_apart([run], "test/acc")
    assert (said is None) == (step == 6)
    assert said is None or "(a second ModelCheckpoint, without a monitor)" in said
