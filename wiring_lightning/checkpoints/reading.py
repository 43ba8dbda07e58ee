"""Reading the file of a checkpoint, with one clear sentence if it is damaged."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, cannot be written, or belongs to another network."""


def damaged(path: str | Path, reason: str) -> CheckpointError:
    """The error that says what is wrong with a checkpoint."""
    return CheckpointError(f"The checkpoint {path} is damaged ({reason}): use an earlier one.")


class StandIn:
    """Stands for an object in a checkpoint whose class is not imported, such as a `partial`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take whatever the object was made with, and keep nothing."""

    def __setstate__(self, state: Any) -> None:
        """Take whatever the object held, and keep nothing."""


def read_weights(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint as `load_checkpoint` does, whatever objects it holds beside its weights.

    Other people's modules save hyper-parameters of any kind, such as a `functools.partial`. The
    class of such an object is not imported, and nothing is called: a `StandIn` takes its place.

    Args:
        path: the file.
        map_location: as in `torch.load`.

    Raises:
        CheckpointError: if the file does not exist or cannot be read, or holds something that
            cannot be passed over.

    Example:
        >>> from functools import partial
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     content = {"state_dict": {"bias": torch.ones(2)}, "make": partial(print, "hello")}
        ...     torch.save(content, f"{folder}/w.ckpt")
        ...     read = read_weights(f"{folder}/w.ckpt")
        >>> read["state_dict"], type(read["make"]).__name__
        ({'bias': tensor([1., 1.])}, 'functools.partial')
    """
    try:
        return load_checkpoint(path, map_location=map_location)
    except CheckpointError as error:
        if "more than weights" not in str(error):
            raise
    names = get_unsafe_globals_in_checkpoint(path)
    with safe_globals([(_stand_in(name), name) for name in names]):
        return load_checkpoint(path, map_location=map_location)


def map_weights(path: str | Path) -> Mapping[str, Any]:
    """The `state_dict` of a checkpoint whose values are read from the file when they are used.

    So a few of them cost little, however large the file is. Checksums are not compared. Objects
    beside the weights are passed over, as by `read_weights`.

    Args:
        path: the file, which must stay until the values are no longer used.

    Raises:
        CheckpointError: if the file cannot be read in this way, or has no `state_dict`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"bias": torch.ones(2)}}, f"{folder}/w.ckpt")
        ...     int(map_weights(f"{folder}/w.ckpt")["bias"].count_nonzero())
        2
    """
    weights: Any = map_checkpoint(path).get("state_dict")
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"The checkpoint {path} cannot be read (it has no state_dict).")
    return weights


def map_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """All of a checkpoint whose values are read from the file when they are used.

    As for `map_weights`, checksums are not compared, and other objects are passed over.

    Args:
        path: the file, which must stay until the values are no longer used.

    Raises:
        CheckpointError: if the file cannot be read in this way.
    """
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_stand_in(name), name) for name in names]):
            content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(content, Mapping):
            raise TypeError("it holds no mapping")
    except Exception as error:  # bytes of any kind make the unpickler fail in any way
        raise CheckpointError(f"The checkpoint {path} cannot be read ({error}).") from error
    return content


def _stand_in(name: str) -> Callable[..., Any]:
    """What stands for the class or function of a name; a mapping where the name says so."""
    if "dict" in name.rpartition(".")[2].lower():  # such as AttributeDict
        return OrderedDict  # torch sets the items of no other class
    return type(name, (StandIn,), {})  # one for each: torch finds a class by its name


def load_checkpoint(
    path: str | Path, weights_only: bool | None = True, map_location: Any = "cpu"
) -> dict[str, Any]:
    """Read a Lightning checkpoint or a bare `state_dict`, onto the CPU if nothing else is said.

    Every byte is compared with its checksum first: `torch.load` reads damaged weights without a
    word. The second pass over the file comes from memory that the system keeps.

    Args:
        path: the file.
        weights_only: as in `torch.load`.
        map_location: as in `torch.load`.

    Raises:
        CheckpointError: if the file does not exist or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}: check the path.")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} is no file of torch.save: save what safetensors.torch.load_file(path) gives "
            "with torch.save, and use that; an exported network is read with wl.load_exported."
        )
    try:
        with path.open("rb") as file:
            _check_bytes(file)
            content = torch.load(file, map_location=map_location, weights_only=weights_only)
    except Exception as error:  # bytes of any kind make the unpickler fail in any way
        if kind := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"The checkpoint {path} holds more than weights ({kind[1]}), which could run code: "
                "only if you trust where it comes from, read it with --weights_only false."
            ) from error
        reason = str(error).partition("\n")[0].partition(". ")[0] or "it is empty"
        raise CheckpointError(
            f"The checkpoint {path} is damaged or is none ({reason}): use an earlier one."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"The file {path} holds a {type(content).__name__}, not a checkpoint: check the path."
        )
    return content


def _check_bytes(file: IO[bytes]) -> None:
    """Raise an error if the checksum of some part is wrong; older formats have none."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    file.seek(0)
    begin = file.read(2)
    # Files of today are archives (PK), those of old versions of torch are pickles.
    if begin and begin != b"PK" and begin[:1] != b"\x80":
        raise ValueError("it is no file that torch.save wrote")
    file.seek(0)
