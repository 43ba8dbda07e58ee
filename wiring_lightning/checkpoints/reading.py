"""Reading and writing checkpoints, with one clear sentence when that fails."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from typing_extensions import override


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, cannot be written, or belongs to another network."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its final place, and move it there when it is complete.

    A full disk or a kill in the middle of a write then leaves the earlier file as it was. Lightning
    writes to the system's temporary folder; if that is on another disk, its move is a copy.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint to a local path; leave other addresses to Lightning.

        Raises:
            CheckpointError: if the file cannot be written.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(content.getbuffer())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise CheckpointError(
                f"The checkpoint {path} could not be written ({error.strerror or error}): make "
                "room, or choose another folder; checkpoints from before are untouched."
            ) from error


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
    except Exception as error:  # bytes of any kind make the unpickler fail in any way
        reason = str(error).partition("\n")[0].partition(". ")[0] or "it is empty"
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
    weights = content.get("state_dict", content)
    _check_weights(module, weights, path)
    module.load_state_dict(weights)


def check_checkpoint(
    module: LightningModule, content: Mapping[str, Any], path: str | Path, resume: bool
) -> None:
    """Say what a trainer would stumble over when it loads a checkpoint into a module.

    Args:
        module: the module that will be trained or tested.
        content: what `load_checkpoint` read.
        path: where it was read from.
        resume: whether training will continue, which needs more than the weights.

    Raises:
        CheckpointError: if the trainer could not load it.
    """
    if not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise CheckpointError(
            f"The file {path} is no checkpoint of a Lightning trainer: use one that `wiring fit` "
            "has saved."
        )
    if resume and "optimizer_states" not in content:
        raise CheckpointError(
            f"The checkpoint {path} holds weights only, and training cannot continue from it: use "
            "one that was saved with save_weights_only=False."
        )
    if not is_overridden("configure_model", module):  # otherwise the network is built later
        _check_weights(module, content["state_dict"], path)


def _check_weights(module: nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
    own = {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
    given = {name: getattr(value, "shape", None) for name, value in weights.items()}
    strict = getattr(module, "strict_loading", True)
    for name in [*own, *given]:
        if name in own and name in given:
            if own[name] == given[name]:
                continue
            reason = f"{name} is {_size(given[name])} there and {_size(own[name])} here"
        elif strict:
            reason = f"{name} is missing {'there' if name in own else 'here'}"
        else:
            continue
        raise CheckpointError(
            f"The checkpoint {path} belongs to another network than the config describes "
            f"({reason}): use the config.yaml that was saved beside it."
        )


def _size(shape: Any) -> str:
    return " x ".join(map(str, shape or ())) or "a number"
