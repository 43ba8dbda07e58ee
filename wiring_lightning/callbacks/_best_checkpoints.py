"""Whether the best checkpoints of a fit are as sparse as its network is in the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from wiring_lightning.callbacks._weight_choice import SparseGroup
from wiring_lightning.checkpoints import CheckpointError, map_weights
from wiring_lightning.checkpoints.naming import plain_name
from wiring_lightning.optim import count_present


def warn_of_denser(
    name: str, groups: Sequence[SparseGroup], trainer: Trainer, module: LightningModule
) -> None:
    """Warn if a best checkpoint has more weights than asked for, as one from before a pruning has.

    What decides is in the file, so it does not matter in which fit it was written. A file that is
    not on this machine, or that cannot be read, is passed over.

    Args:
        name: name of the learner.
        groups: its weights, with their final numbers of edges.
        trainer: the trainer of the fit, at its end.
        module: the module that it trained.
    """
    if not trainer.is_global_zero:  # the first rank says it for all
        return
    named = module.named_parameters(remove_duplicate=False)
    names = {id(parameter): plain_name(name) for name, parameter in named}
    paths = [str(getattr(each, "best_model_path", "")) for each in trainer.checkpoint_callbacks]
    for path in filter(None, dict.fromkeys(paths)):
        if not Path(path).is_file():  # an address, or a file that was removed
            continue
        try:
            saved = {plain_name(name): value for name, value in map_weights(path).items()}
        except CheckpointError:
            continue
        if any(_is_denser(group, saved, names) for group in groups):
            rank_zero_warn(
                f"{name}: the best checkpoint, {path}, was saved before all weights were removed, "
                "so its network is larger than asked for; use the last checkpoint, or a "
                "ModelCheckpoint that starts later."
            )


def _is_denser(group: SparseGroup, saved: Mapping[str, object], names: Mapping[int, str]) -> bool:
    """Whether saved values of a group have more weights than it has in the end."""
    values = [saved.get(names.get(id(weight), "")) for weight in group.weights]
    return count_present([value for value in values if isinstance(value, Tensor)]) > group.k
