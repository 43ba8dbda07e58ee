"""Writing files: whole or not at all, and nothing that is there already is lost."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

_PICTURES = (".png", ".pdf", ".svg")  # what commands draw


def write_file(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file beside its final place, and move it there when it is complete on the disk.

    Whoever reads `path` at any moment sees the earlier file or all of the new one, also after a
    kill, with a full disk, or while others write the same path: then the last one stays.

    Args:
        path: an existing file there is replaced; folders above it are made.
        content: all of the file.

    Raises:
        OSError: if the file cannot be written; the earlier one is still there, and nothing else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_file(f"{folder}/new/table.md", b"| 1 |")
        ...     [file.name for file in Path(folder, "new").iterdir()]
        ['table.md']
    """
    path = Path(path)
    _refuse_unless_file(path)
    with _written_beside(path, content) as unfinished:
        unfinished.replace(path)


def write_new_file(path: str | Path, content: bytes | memoryview) -> Path:
    """Write a file as `write_file` does, with a number behind its name if that is taken.

    Args:
        path: where it goes if nothing is there; folders above it are made.
        content: all of the file.

    Returns:
        Where it is.

    Raises:
        OSError: as for `write_file`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     [write_new_file(f"{folder}/scores.pt", b"0.9").name for _ in range(3)]
        ['scores.pt', 'scores_1.pt', 'scores_2.pt']
    """
    with _written_beside(Path(path), content) as unfinished:
        while not make_empty(free := free_path(path)):
            pass  # another process was faster
        unfinished.replace(free)
    return free


def free_path(path: str | Path) -> Path:
    """The path, or the first of `name_1`, `name_2`, ... beside it where nothing is yet."""
    path = Path(path)
    paths = (path.with_stem(f"{path.stem}_{number}") if number else path for number in count())
    return next(free for free in paths if not os.path.lexists(free))


def picture_path(path: str | Path) -> Path:
    """A path as it is if it has an ending, otherwise with `.png`, as matplotlib writes it."""
    return Path(path) if Path(path).suffix else Path(path).with_suffix(".png")


def make_empty(path: Path) -> bool:
    """Make an empty file; `False` if there is something of that name, made by whomever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def claim_version(folder: str | Path) -> int:
    """Make the next folder `version_N` inside a folder; no other process gets the same N.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     [claim_version(folder) for _ in range(3)]
        [0, 1, 2]
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    taken = [int(number) for number in numbers if number.isdecimal()]
    for version in count(max(taken, default=-1) + 1):
        with suppress(FileExistsError):
            (folder / f"version_{version}").mkdir()
            return version
    raise AssertionError("numbers do not end")


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """Files from the newest to the oldest, without those that are gone.

    Folders are left out, links to nothing or to themselves, and files that others removed after
    they were found.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     write_file(folder / "last.ckpt", b"")
        ...     (folder / "lost.ckpt").symlink_to(folder / "nowhere.ckpt")
        ...     (folder / "loop.ckpt").symlink_to(folder / "loop.ckpt")
        ...     (folder / "folder.ckpt").mkdir()
        ...     [path.name for path in newest_first(folder.glob("*.ckpt"))]
        ['last.ckpt']
    """
    dated = []
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():  # not so a link to itself, which has no time
                dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)]


def check_outputs(paths: Iterable[str | Path], option: str, overwrite: bool = False) -> None:
    """Refuse places for files before the work, not after it.

    Args:
        paths: what a command would write.
        option: the option that names another place for it, such as `"-o"`.
        overwrite: whether files that are there may be replaced.

    Raises:
        FileExistsError: if one of them is there, and must not be replaced.
        OSError: if one of them cannot be written.
    """
    for path in paths:
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(
                f"{path} is there already: name another place with {option}, or add --overwrite to "
                "replace it."
            )
        check_writable(path)


def check_picture(path: str | Path, option: str, overwrite: bool = False) -> None:
    """Refuse a place for a picture before it is drawn, as `check_outputs` does.

    Args:
        path: without an ending it stands for a `.png`.
        option: as for `check_outputs`.
        overwrite: as for `check_outputs`.

    Raises:
        ValueError: if the ending is none of a picture.
        OSError: as for `check_outputs`.

    Example:
        >>> check_picture("no_folder_yet/depth.svg", "-o")
        >>> check_picture("depth.docx", "-o")
        Traceback (most recent call last):
        ValueError: depth.docx is no name of a picture: give -o a file that ends in ...
    """
    path = picture_path(path)
    if path.suffix.lower() not in _PICTURES:
        *others, last = _PICTURES
        raise ValueError(
            f"{path} is no name of a picture: give {option} a file that ends in "
            f"{', '.join(others)} or {last}."
        )
    check_outputs([path], option, overwrite)


def check_writable(path: str | Path) -> None:
    """Find out whether a file can be written, and leave nothing behind.

    Raises:
        OSError: if it cannot be.

    Example:
        >>> check_writable("no_folder_yet/table.md")
        >>> check_writable(f"{__file__}/table.md")
        Traceback (most recent call last):
        OSError: .../table.md cannot be written: .../files.py is no folder; name another place.
    """
    path = Path(path)
    _refuse_unless_file(path)
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise OSError(f"{path} cannot be written: {folder} is no folder; name another place.")
    probe = folder / f".{uuid4().hex}.unfinished"
    try:
        path.exists()  # an error if the name is too long
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror} (in {folder}); name another place."
        ) from error


def _refuse_unless_file(path: Path) -> None:
    """Raise an error if something other than a file is there, such as a folder or a pipe."""
    if os.path.exists(path) and not path.is_file():  # noqa: PTH110  # Path's own fails on long names
        raise FileExistsError(
            f"{path} cannot be written: it is there, and is no file; name another place."
        )


@contextmanager
def _written_beside(path: Path, content: bytes | memoryview) -> Iterator[Path]:
    """A file beside `path` that is complete on the disk; nothing is left of it after an error."""
    unfinished = path.with_name(f".{uuid4().hex}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        _sync(unfinished, os.O_RDWR)
        yield unfinished
    except BaseException as error:  # an interrupt, too, leaves nothing behind
        with suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    with suppress(OSError):  # not every system can open a folder
        _sync(path.parent, os.O_RDONLY)


def _sync(path: Path, mode: int) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address, such as `s3://runs`, and no file of this machine.

    Example:
        >>> is_remote("s3://runs"), is_remote("runs")
        (True, False)
    """
    return "://" in str(path)
