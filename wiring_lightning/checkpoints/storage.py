"""How Lightning's trainer reads and writes checkpoints, and how weights alone are loaded."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from typing_extensions import override

from wiring_lightning._checks import listed
from wiring_lightning.checkpoints.matching import check_weights, is_strict
from wiring_lightning.checkpoints.naming import find_weights, named_as_in
from wiring_lightning.checkpoints.reading import CheckpointError, load_checkpoint, read_weights
from wiring_lightning.files import is_remote, write_file


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
        if is_remote(path) or storage_options is not None:
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
        if is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only)
        return load_checkpoint(path, weights_only)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into a module of the same structure.

    Args:
        module: a task as the trainer has saved it, or a bare network for a bare `state_dict`. Their
            names may have another prefix, such as `module.`; a line says so.
        path: the file, a checkpoint or a `state_dict`, which may be beside other things.

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
    put_weights(module, weights_for(module, read_weights(path), path), path)


def weights_for(
    module: nn.Module, content: Mapping[str, Any], path: str | Path, strict: bool | None = None
) -> Mapping[str, Any]:
    """The weights in what a file holds, with the names of a module, after `check_weights`.

    Args:
        module: the module that they are for.
        content: a Lightning checkpoint, a bare `state_dict`, or a mapping that holds one.
        path: where it was read from, for the messages.
        strict: as of `check_weights`.

    Raises:
        CheckpointError: if they are of another network, or damaged.
    """
    named = named_as_in(module, find_weights(content, path))
    check_weights(module, {**content, "state_dict": named.weights}, path, strict)
    if named.renamed is not None:
        rank_zero_info(f"The weights in {path} have other names than here ({named.renamed}).")
    return named.weights


def put_weights(
    module: nn.Module, weights: Mapping[str, Any], path: str | Path, strict: bool | None = None
) -> None:
    """Put weights that fit into a module; without `strict` a warning says which names do not agree.

    Args:
        module: where they belong.
        weights: what `weights_for` gave.
        path: where they were read from, for the message.
        strict: as of `check_weights`.
    """
    strict = is_strict(module) if strict is None else strict
    result = module.load_state_dict(weights, strict)
    if strict:
        return
    for names, place in ((result.missing_keys, "file"), (result.unexpected_keys, "network")):
        if names:
            rank_zero_warn(
                f"{len(names)} weight(s) are missing in the {place} when those of {path} are "
                f"loaded: {listed(names)}."
            )
