"""Whether the files that a fit leaves are as sparse as its network is in the end."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from wiring_lightning._checks import listed
from wiring_lightning.callbacks._weight_choice import SparseGroup
from wiring_lightning.checkpoints import CheckpointError, map_weights
from wiring_lightning.checkpoints.naming import plain_name
from wiring_lightning.optim import count_present


def warn_of_denser(
    name: str, groups: Sequence[SparseGroup], trainer: Trainer, module: LightningModule
) -> None:
    """Warn if a best or last checkpoint has more weights than asked for, as from before a pruning.

    What decides is in the file, so it does not matter in which fit it was written. A file that is
    not on this machine, or that cannot be read, is passed over. Also says what to use instead: if
    the fit trained nothing, that is the file that it began with.

    Args:
        name: name of the learner.
        groups: its weights, with their final numbers of edges.
        trainer: the trainer of the fit, at its end.
        module: the module that it trained.
    """
    if not trainer.is_global_zero:  # the first rank says it for all
        return
    denser, sparse = sort_files(groups, trainer, module)
    if denser:
        sparse = sparse or _start_as_it_is(groups, trainer, module)
        one = len(denser) == 1
        rank_zero_warn(
            f"{name}: the {'checkpoint' if one else 'checkpoints'} {listed(denser)} "
            f"{'was' if one else 'were'} saved before all weights were removed, so "
            f"{'its network is' if one else 'their networks are'} larger than asked for; "
            + (
                f"use {sparse[-1]}, which is as sparse as asked for."
                if sparse
                else "this run has no other one: call trainer.save_checkpoint(path) now, and next "
                "time give the trainer a ModelCheckpoint without a monitor, too."
            )
        )


def sort_files(
    groups: Sequence[SparseGroup], trainer: Trainer, module: LightningModule
) -> tuple[list[str], list[str]]:
    """The files that a fit leaves: the best and the last ones that are denser, and the others.

    Args:
        groups: the weights of a learner, with their final numbers of edges.
        trainer: the trainer of the fit, at its end.
        module: the module that it trained.

    Returns:
        Paths of best and last checkpoints with more weights, and of all those with as many or less,
        of which the last is the newest.
    """
    names = _names_in(module)
    results, others = _files_of(trainer)
    is_denser = {path: _is_denser(path, groups, names) for path in [*others, *results]}
    denser = [path for path in results if is_denser[path]]
    sparse = [path for path, more in is_denser.items() if more is False]
    return denser, sorted(sparse, key=lambda path: Path(path).stat().st_mtime)


def _files_of(trainer: Trainer) -> tuple[list[str], list[str]]:
    """The best and last checkpoints of all savers that are on this machine, and their others."""
    savers: Sequence[Any] = trainer.checkpoint_callbacks
    results = [
        getattr(saver, kind, "")
        for kind in ("best_model_path", "last_model_path")
        for saver in savers
    ]
    others = [path for saver in savers for path in getattr(saver, "best_k_models", {})]
    return list(_there(results)), list(_there(others))


def _there(paths: Sequence[Any]) -> Iterator[str]:
    """Every file once that is there: a path may be an address, or of a file that was removed."""
    seen = set()
    for path in filter(None, map(str, paths)):
        whole = Path(path).resolve()  # a last checkpoint may be a link to the best one
        if whole.is_file() and whole not in seen:
            seen.add(whole)
            yield path


def _start_as_it_is(
    groups: Sequence[SparseGroup], trainer: Trainer, module: LightningModule
) -> list[str]:
    """The file that a fit began with, if it holds the weights as they are: nothing was trained."""
    paths = list(_there([trainer.ckpt_path]))
    try:
        saved = [_saved_in(path) for path in paths]
    except CheckpointError:
        return []
    names = _names_in(module)
    weights = [(names.get(id(one), ""), one) for group in groups for one in group.weights]
    same = all(
        isinstance(value := one.get(name), Tensor) and torch.equal(value, weight.detach().cpu())
        for one in saved
        for name, weight in weights
    )
    return paths if same else []


def _names_in(module: LightningModule) -> dict[int, str]:
    """The plain name of every parameter by its id, of a shared one any."""
    named = module.named_parameters(remove_duplicate=False)
    return {id(parameter): plain_name(name) for name, parameter in named}


def _saved_in(path: str) -> dict[str, Any]:
    """The weights in a file by their plain names; raises as `map_weights`."""
    return {plain_name(name): value for name, value in map_weights(path).items()}


def _is_denser(path: str, groups: Sequence[SparseGroup], names: Mapping[int, str]) -> bool | None:
    """Whether a file has more weights of a group than it has in the end; `None` if unknown."""
    try:
        saved = _saved_in(path)
    except CheckpointError:
        return None
    whole = True
    for group in groups:
        values = [saved.get(names.get(id(weight), "")) for weight in group.weights]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if count_present(tensors) > group.k:
            return True
        whole = whole and len(tensors) == len(values)
    return False if whole else None
