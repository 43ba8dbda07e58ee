"""What libraries say during every command, and that is not about the user's run."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# The beginnings of warnings, as regular expressions. Nothing belongs here that a user can act on.
_WARNINGS = (
    # Lightning 2.6 uses a name of torch's that is deprecated.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # So it does when it gathers what several processes predicted.
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",
    # Every command has a folder of its own, also one that goes on from a checkpoint.
    r"The dirpath has changed from ",
    # Data without validation images has an empty list of loaders for them.
    r"Total length of `list` across ranks is zero",
    # Our loaders draw their own batches; only a writer that asks for the indices would miss them.
    r"Couldn't infer the batch indices fetched from your dataloader: `(Batch|File)Loader`",
)
# Lines that Lightning logs as information: its own advertisements, and a device nobody asked for.
_LINES = re.compile(r"💡 Tip: .*\[lit(logger|models)\]|TPU available: False, ")
_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out, while a command runs, what libraries say in every run.

    Everything else is shown. Programs that use this package as a library are not concerned.

    Example:
        >>> with warnings.catch_warnings(record=True) as said, quiet():
        ...     warnings.warn("The dirpath has changed from 'a' to 'b', therefore ...")
        ...     warnings.warn("The loss is not finite.")
        >>> [str(warning.message) for warning in said]
        ['The loss is not finite.']
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for beginning in _WARNINGS:
            warnings.filterwarnings("ignore", message=beginning)
        for logger in loggers:
            logger.addFilter(_is_news)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not _LINES.match(record.getMessage())
