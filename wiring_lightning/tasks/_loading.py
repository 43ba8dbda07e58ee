"""Building a task from a file: a checkpoint, or weights that no trainer has saved."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from typing_extensions import override

from wiring_lightning.checkpoints import (
    check_weights,
    is_from_trainer,
    load_checkpoint,
    note_loaded,
    put_weights,
    read_weights,
    weights_for,
)
from wiring_lightning.files import is_remote
from wiring_lightning.nn.as_usual import as_usual
from wiring_lightning.tasks._saved import build_backbone, described_for, kept_arguments, takes

# The file that `load_from_checkpoint` reads, and its `strict`: Lightning tells them to no hook.
_LOADING: ContextVar[tuple[Any, bool | None]] = ContextVar("loading")


class LoadedTask(LightningModule):
    """The part of a task that reads files: all weights are checked before they are loaded."""

    @classmethod
    @override
    @as_usual()
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **arguments: Any,
    ) -> Self:
        """Build the task and the backbone that a checkpoint describes, with its weights.

        The task gets the arguments that it had, such as its loss. The optimizer is not described:
        give `optimizer`, `lr_scheduler` and what begins with `lr_` to train further.

        Args:
            checkpoint_path: the file. With `backbone` it may be one of weights that no trainer has
                saved, such as a `state_dict`; names may have another prefix, such as `module.`.
            map_location: a device, the CPU by default; or a mapping or function of places, as in
                `torch.load`.
            hparams_file: as in Lightning; not needed.
            strict: whether the names of all weights must agree; `strict_loading` of the task if not
                given. Otherwise a warning says which do not, and one must in any case.
            weights_only: as in Lightning.
            arguments: of the task, in place of those that the file names; `backbone` for a network
                that is not of this package.

        Raises:
            CheckpointError: if the file does not describe a backbone of this package, and none is
                given; or if it cannot be read or belongs to another network.
        """
        by_lightning = (checkpoint_path, map_location, hparams_file, strict, weights_only)
        if not isinstance(checkpoint_path, str | Path) or is_remote(checkpoint_path):
            with _loading("that was given", strict):
                return super().load_from_checkpoint(*by_lightning, **arguments)
        is_device = map_location is None or isinstance(map_location, str | torch.device)
        place = "cpu" if is_device else map_location
        if weights_only is False:
            content = load_checkpoint(checkpoint_path, False, place)
        else:
            content = read_weights(checkpoint_path, place)
        if "backbone" in arguments or not takes(cls, "backbone"):
            if is_from_trainer(content):
                del content  # Lightning reads it again
                with _loading(checkpoint_path, strict):
                    task = super().load_from_checkpoint(*by_lightning, **arguments)
                note_loaded(task, checkpoint_path)
                return task
            task = cls(**arguments)
        else:
            described = described_for(cls, content, checkpoint_path)
            known = kept_arguments(cls, described["arguments"])
            backbone = build_backbone(described, checkpoint_path)
            task = cls(backbone=backbone, **{**known, **arguments})
        weights = weights_for(task, content, checkpoint_path, strict)
        content = {**content, "state_dict": weights}
        with _loading(checkpoint_path, strict):
            task.on_load_checkpoint(content)
        put_weights(task, content["state_dict"], checkpoint_path, strict)
        note_loaded(task, checkpoint_path)
        if not is_device:  # then it said where each weight is put
            tensors = [one for one in content["state_dict"].values() if isinstance(one, Tensor)]
            map_location = tensors[0].device
        return task if map_location is None else task.to(map_location)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self._trainer.ckpt_path is not None:
            check_weights(self, checkpoint, self._trainer.ckpt_path)
            return
        path, strict = _LOADING.get(("that was given", None))
        checkpoint["state_dict"] = weights_for(self, checkpoint, path, strict)


@contextmanager
def _loading(path: str | Path, strict: bool | None) -> Iterator[None]:
    """Tell the hook of the task that is loaded inside which file it is of."""
    before = _LOADING.set((path, strict))
    try:
        yield
    finally:
        _LOADING.reset(before)
