"""Which ways of starting several processes the command line refuses."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher


def check_launcher(trainer: Trainer) -> None:
    """Refuse strategies whose processes are copies of this one: it would train nothing itself.

    So it could not test the network and report. A copy by `spawn` also fails, because callbacks and
    the modules of a config cannot all be pickled.

    Raises:
        MisconfigurationException: if the trainer has one, also if Lightning chose it.

    Example:
        >>> check_launcher(Trainer(logger=False, accelerator="cpu", strategy="ddp_spawn"))
        Traceback (most recent call last):
        lightning.fabric.utilities.exceptions.MisconfigurationException: DDPStrategy ...
    """
    launcher = trainer.strategy.launcher
    if type(launcher) is _MultiProcessingLauncher:  # that of TPUs, which have no other, is below it
        raise MisconfigurationException(
            f"{type(trainer.strategy).__name__} would {launcher._start_method} the processes that "
            "train, and the command would have nothing to report: use ddp "
            "(--trainer.strategy=ddp), or in a notebook one device."
        )
