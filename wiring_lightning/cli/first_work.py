"""Whether a run has done something yet, and what a run leaves that was refused before it did."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.inspect import WiringTrainer

# What is in a folder when a run begins, beside the events of TensorBoard. Numbers are no beginning.
_BEGINNING = (CONFIG, "hparams.yaml")


class FirstWork(Callback):
    """Tells the trainer when a weight is about to change, or a batch was measured or predicted."""

    @override
    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        """A step of an optimizer comes next."""
        _note(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """The module may have taken its step without Lightning."""
        _note(trainer)

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        """A batch was validated; the check before a fit tells nobody a result."""
        if not trainer.sanity_checking:
            _note(trainer)

    @override
    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A batch was tested."""
        _note(trainer)

    @override
    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A batch was predicted."""
        _note(trainer)


def _note(trainer: Trainer) -> None:
    assert isinstance(trainer, WiringTrainer)
    trainer.worked = True


def discard_beginning(trainer: WiringTrainer) -> None:
    """Empty the folders that were made for a run, if it ended before it did anything.

    Lightning's loggers write before the callbacks have checked what they were given. If a folder
    holds more than the beginning of this run, all of it stays.

    Args:
        trainer: of the run that failed. Rank 0 alone has claimed folders.
    """
    if trainer.worked:
        return
    for folder in trainer.claimed:
        found = sorted(folder.rglob("*"), reverse=True)  # what is in a folder comes before it
        if all(path.is_dir() or _is_beginning(path) for path in found):
            for path in found:
                path.rmdir() if path.is_dir() else path.unlink()


def _is_beginning(path: Path) -> bool:
    # Events of another process may be those of a fit that this one has spawned, and tell its work.
    events = path.name.startswith("events.out.tfevents.") and f".{os.getpid()}." in path.name
    return events or path.name in _BEGINNING
