"""The row of a run on TensorBoard's HPARAMS page."""

import os
from collections.abc import Mapping

from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

# A folder of its own. TensorBoard shows all numbers of a folder with hyper-parameters as columns,
# in alphabetical order; in the run's folder these would be all of its curves.
_FOLDER = "hparams"


def write_row(
    logger: TensorBoardLogger,
    facts: Mapping[str, bool | int | float | str],
    metrics: Mapping[str, float],
    step: int,
) -> None:
    """Write the settings of a run and its final metrics.

    No description of the columns is written, as torch's `add_hparams` does. TensorBoard then makes
    it from all rows that it finds, and shows first the settings in which they differ.

    Args:
        logger: its folder gets the row.
        facts: plain values by name.
        metrics: the last value of each metric.
        step: the training step of the metrics.
    """
    _, start, end = hparams(dict(facts), {})
    with _writer(logger) as writer:
        writer.file_writer.add_summary(start)
        writer.file_writer.add_summary(end)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def add_to_row(logger: TensorBoardLogger, metrics: Mapping[str, float], step: int) -> None:
    """Add metrics, such as those of a test after the fit, to the row of a run."""
    with _writer(logger) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


def _writer(logger: TensorBoardLogger) -> SummaryWriter:
    return SummaryWriter(os.path.join(logger.log_dir, _FOLDER))  # noqa: PTH118 - may be a URL
