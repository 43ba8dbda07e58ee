"""Whether a run has done something yet, and what a run leaves that was refused before it did."""

import os
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.inspect import WiringTrainer

# What is in a folder when a run begins, beside the events of TensorBoard. Numbers are no beginning.
_BEGINNING = (CONFIG, "hparams.yaml")
# The batches of a command that measures or predicts, and what to do if its data have none.
_MEASURES = {
    "validate": (
        "val",
        "The data have no validation images, so nothing was validated: set some aside (such as "
        "with --data.val_size), or measure the test images with `wiring test`.",
    ),
    "test": ("test", "The data have no test images, so nothing was tested: give them some."),
    "predict": ("predict", "The data have no images to predict: give them some."),
}


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


def check_worked(trainer: WiringTrainer, subcommand: str) -> None:
    """Refuse a validation, test or prediction that had no batch; all ranks take part.

    Only when it has ended are its batches known.

    Raises:
        MisconfigurationException: if it had none on any rank.
    """
    if subcommand not in _MEASURES:
        return
    if trainer.strategy.reduce_boolean_decision(trainer.worked, all=False):
        return
    name, sentence = _MEASURES[subcommand]
    limit = f"limit_{name}_batches"
    if getattr(trainer, limit) == 0:
        sentence = f"{limit} is 0, so there is nothing to {subcommand}: leave it out, or raise it."
    raise MisconfigurationException(sentence)


def discard_beginning(trainer: WiringTrainer) -> None:
    """Empty the folders that were made for a run, if it ended before it did anything.

    Lightning's loggers write before the callbacks have checked what they were given. If a folder
    holds more than the beginning of this run, all of it stays, but for the config of a run that was
    to go on there: whoever reads the folder takes the last one for what was trained.

    Args:
        trainer: of the run that failed. Rank 0 alone has claimed folders.
    """
    if trainer.worked:
        return
    discard_config(trainer)
    for folder in trainer.claimed:
        found = sorted(folder.rglob("*"), reverse=True)  # what is in a folder comes before it
        if all(path.is_dir() or _is_beginning(path) for path in found):
            for path in found:
                path.rmdir() if path.is_dir() else path.unlink()


def discard_config(trainer: WiringTrainer) -> None:
    """Remove the config of a fit that was to go on in a folder and did nothing there.

    So it is if all was trained before, and the fit ends well. The test after it measures what the
    earlier fit has trained.
    """
    if not trainer.worked and trainer.went_on is not None:
        trainer.went_on.unlink(missing_ok=True)
        trainer.went_on = None


def _is_beginning(path: Path) -> bool:
    # Events of another process may tell its work.
    events = path.name.startswith("events.out.tfevents.") and f".{os.getpid()}." in path.name
    return events or path.name in _BEGINNING
