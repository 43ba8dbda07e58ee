"""Whether a fit would leave no file that is as sparse as its network is in the end."""

from lightning.pytorch import LightningModule, Trainer

from wiring_lightning.callbacks._best_checkpoints import sort_files
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners


def leaves_only_denser(trainer: Trainer, module: LightningModule) -> bool:
    """Whether checkpoints have more weights than a learner was asked for, and none has as many.

    Args:
        trainer: the trainer of the fit, at its end.
        module: the module that it trains.
    """
    for learner in find_sparse_learners(trainer):
        if learner.due:  # otherwise the network that is left has more, too
            denser, sparse = sort_files(learner._groups, trainer, module)
            if denser and not sparse:
                return True
    return False
