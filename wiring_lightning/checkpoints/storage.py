"""How Lightning's trainer reads and writes checkpoints, and how weights alone are loaded."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn
from typing_extensions import override

from wiring_lightning.checkpoints.matching import check_weights
from wiring_lightning.checkpoints.reading import CheckpointError, load_checkpoint, read_weights
from wiring_lightning.files import write_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint whole or not at all, and read it with its checksums.

    A full disk or a kill in the middle of a write leaves the earlier file as it was, and several
    processes may write the same path. Lightning writes to the system's temporary folder; if that is
    on another disk, its move is a copy.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint to a local path; leave other addresses to Lightning.

        Raises:
            CheckpointError: if the file cannot be written.
        """
        if _is_remote(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            write_file(path, content.getbuffer())
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {path} could not be written ({error.strerror or error}): make "
                "room, or choose another folder; checkpoints from before are untouched."
            ) from error

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint from a local path onto the CPU; leave other addresses to Lightning.

        Raises:
            CheckpointError: if the file does not exist or is damaged.
        """
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return load_checkpoint(path, weights_only)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the weights of a checkpoint into a module of the same structure.

    Args:
        module: a task as the trainer has saved it, or a bare network for a bare `state_dict`.
        path: the file.

    Raises:
        CheckpointError: if the file cannot be read, or belongs to another network.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> saved, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(saved.state_dict(), f"{folder}/w.ckpt")
        ...     load_weights(fresh, f"{folder}/w.ckpt")
        >>> torch.equal(saved.weight, fresh.weight)
        True
    """
    content = read_weights(path)
    check_weights(module, content, path)
    module.load_state_dict(content.get("state_dict", content))


def _is_remote(path: str | Path) -> bool:
    return "://" in str(path)
