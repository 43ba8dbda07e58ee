"""The default logger of the command line: TensorBoard, with loss and accuracy first."""

from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override


class Curves(TensorBoardLogger):
    """Lightning's logger, with the number of the epoch beside that of the phase.

    TensorBoard shows groups of curves in alphabetical order. Lightning logs the number of the epoch
    under a name of its own, `epoch`, which would stand before `test`, `train` and `val`.

    Example:
        >>> Curves("logs").name
        'lightning_logs'
    """

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers by name, `epoch` as `wiring/epoch`."""
        named = {_NAMES.get(name, name): value for name, value in metrics.items()}
        super().log_metrics(named, step)


_NAMES = {"epoch": "wiring/epoch"}


def default_logger(logger: TensorBoardLogger) -> Curves:
    """`Curves` in the place of Lightning's logger.

    Under SLURM that one has the number of the job as its version, which all runs of a job share.
    """
    return Curves(logger.save_dir, logger.name)
