"""Which checkpoint a command begins with: a file, or one of the words that Lightning knows."""

import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.trainer.connectors import checkpoint_connector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from wiring_lightning.checkpoints import CheckpointError
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.last_run import find_last_run
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.parse_errors import one_line
from wiring_lightning.cli.run_folder import go_on_in, read_from, versions_not_taken

_WORDS = ("best", "last", "hpc", "registry")
_WORDED = (MisconfigurationException, FloatingPointError, OSError, RuntimeError, ValueError)


def is_word(path: str | None) -> bool:
    """Whether `ckpt_path` is a word for a checkpoint that the trainer finds, and no file."""
    return path is not None and path.partition(":")[0] in _WORDS


def find_checkpoint(
    trainer: WiringTrainer, word: str, subcommand: str, config: Mapping[str, Any]
) -> str | None:
    """The file that a word stands for.

    With `last`, a fit goes on in the folder of the run that was found, if runs have numbers. A fit
    that finds nothing starts from scratch and says so: scripts that restart a run begin like that.

    Args:
        trainer: with the callbacks that save checkpoints.
        word: such as `"last"`.
        subcommand: such as `"fit"`.
        config: of the subcommand, as plain values.

    Returns:
        Its path; `None` if a fit starts from scratch.

    Raises:
        CheckpointError: if there is none.
    """
    path: Any = None
    found_nothing, others = "there is none", None
    if word == "last":
        folder, others = find_last_run(trainer, config)
        if folder is not None:
            (go_on_in if subcommand == "fit" else read_from)(trainer, folder)
    try:
        with warnings.catch_warnings(), versions_not_taken(trainer):
            warnings.simplefilter("ignore")  # it is said here
            path = trainer._checkpoint_connector._parse_ckpt_path(
                _function(subcommand), word, model_provided=True, model_connected=False
            )
    except ValueError as error:
        found_nothing = one_line(str(error)).rstrip(".")
    if path is None and word == "last" and subcommand == "fit":
        why = others or "there is no last checkpoint yet"
        rank_zero_only(note)(f"{why}, so training starts from scratch")
    elif path is None:
        raise CheckpointError(
            f"There is no checkpoint for --ckpt_path {word} ({others or found_nothing}): give the "
            "path of a file, or the `dirpath` of the ModelCheckpoint that saved it."
        )
    return None if path is None else str(path)


def left_by_exception(trainer: WiringTrainer) -> str | None:
    """The checkpoint that `OnExceptionCheckpoint` left, with which Lightning lets a fit go on.

    Example:
        >>> left_by_exception(WiringTrainer(logger=False, enable_checkpointing=False))
    """
    savers = [one for one in trainer.callbacks if isinstance(one, OnExceptionCheckpoint)]
    found = next((one.ckpt_path for one in savers if Path(one.ckpt_path).is_file()), None)
    if found is not None:
        rank_zero_only(note)(f"an exception ended the last run, so training goes on from {found}")
    return found


def choose_no_other(trainer: WiringTrainer) -> None:
    """Let the trainer run the network as it is.

    Without this, Lightning loads any `hpc_ckpt_N.ckpt` that it finds if it runs under SLURM, also
    in the test after a fit.
    """
    trainer.ckpt_path = None
    trainer._checkpoint_connector._user_managed = True


def explain(error: Exception, path: Any) -> NoReturn:
    """Raise what went wrong with the state in a checkpoint as one sentence.

    Errors from elsewhere stay as they are, and so do the sentences of this package.

    Args:
        error: what ended a command.
        path: its checkpoint, if it has one.

    Raises:
        CheckpointError: if the error came while something took over its saved state.
        Exception: the error itself in all other cases.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    said = str(frames[-1].f_globals.get("__name__")).startswith("wiring_lightning.")
    if path is None or not any(map(_restores, frames)) or (said and isinstance(error, _WORDED)):
        raise error
    reason = one_line(str(error).partition("\n")[0]) or type(error).__name__
    if any(str(frame.f_globals.get("__name__")).startswith("torch.optim") for frame in frames):
        reason = f"the state of an optimizer does not fit: {reason}"
    raise CheckpointError(
        f"The checkpoint {path} cannot be loaded with this config ({reason}): use the config.yaml "
        "that was saved beside it, or an earlier checkpoint."
    ) from error


def _restores(frame: FrameType) -> bool:
    """Whether a function gives a saved state back to something."""
    name = frame.f_code.co_name
    of_trainer = frame.f_globals is vars(checkpoint_connector) and "restore" in name
    return of_trainer or name == "load_state_dict"


def _function(subcommand: str) -> TrainerFn:
    return TrainerFn.FITTING if subcommand == "fit" else TrainerFn(subcommand)
