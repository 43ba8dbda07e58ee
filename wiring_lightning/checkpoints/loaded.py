"""Which file the weights of a module are from."""

from pathlib import Path

from torch import nn

_NAME = "loaded_from_file"


def note_loaded(module: nn.Module, path: str | Path | None) -> None:
    """Note the file that a module got all its weights from; None if they are from nowhere now.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> note_loaded(network, "last.ckpt")
        >>> loaded_from(network)
        'last.ckpt'
    """
    setattr(module, _NAME, path)


def loaded_from(module: nn.Module) -> str | Path | None:
    """The file that a module got all its weights from, if it was noted."""
    found: str | Path | None = getattr(module, _NAME, None)
    return found
