"""Reading checkpoints, with one clear sentence when one cannot be read."""

import pickle
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import nn


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or belongs to another network."""


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint or a bare `state_dict` onto the CPU.

    Raises:
        CheckpointError: if the file does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}: check the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, BadZipFile, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {path} is damaged or is none ({reason}): use an earlier one."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"The file {path} holds a {type(content).__name__}, not a checkpoint: check the path."
        )
    return content


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the weights of a checkpoint into a module of the same structure.

    Raises:
        CheckpointError: if the file cannot be read, or belongs to another network.
    """
    content = load_checkpoint(path)
    try:
        module.load_state_dict(content.get("state_dict", content))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"The checkpoint {path} belongs to another network than the config describes "
            f"({first[:200]}): use the config.yaml that was saved beside it."
        ) from error
