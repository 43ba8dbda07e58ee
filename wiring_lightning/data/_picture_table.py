"""Tables of pictures: a CSV file with the path and the class of each, and perhaps its split."""

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from wiring_lightning.data._find_files import existing, nfc
from wiring_lightning.data._stratified import Splits

Find = Callable[[str, str], tuple[str, str]]
_SPLITS = ("train", "val", "test")
_COLUMNS = ("path", "label", "split")
# In a table with this first line, spaces around a value belong to it.
_EXACT = '"path","label","split"'


def write_table(splits: Splits) -> str:
    """Return a table with the split of each picture, which :func:`read_table` reads.

    All values are in quotation marks if one of them begins or ends with a space, or would break
    its line.

    Example:
        >>> print(write_table({"train": [("ant/1.png", "ant")], "test": [("ant/2.png", "ant")]}))
        path,label,split
        ant/1.png,ant,train
        ant/2.png,ant,test
        <BLANKLINE>
    """
    rows = [(*picture, split) for split, pictures in splits.items() for picture in pictures]
    plain = all(value == value.strip() and "\r" not in value for row in rows for value in row)
    text = io.StringIO()
    writer = csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL
    )
    writer.writerows([_COLUMNS, *rows])
    return text.getvalue()


def read_table(text: str, source: str, find: Find) -> tuple[Splits, bool]:
    """Read a table of pictures.

    Spaces around a value are left out, except where :func:`write_table` has kept them.

    Args:
        text: The table; its first line has the names of the columns ``path`` and ``label``, and
            ``split`` if the table says which pictures are for what. Commas, semicolons or tabs are
            between the columns.
        source: What the table is called in error messages, such as ``The table 'a.csv'``.
        find: Returns the name of a picture, and its place on the disk, which is the same for every
            spelling of the path. Its arguments are the path in the table, and the beginning of the
            sentence that says that there is no such picture. See :func:`find_below`.

    Returns:
        The pictures, and whether the table tells their splits; otherwise all are for training.

    Raises:
        RuntimeError: If a column or a value is missing, a column is named twice, a line has more
            values than the first, a split is unknown, or a picture is there twice.
        FileNotFoundError: From ``find``.
    """
    lines = _lines(text, source)
    first, header = next(lines, (1, []))
    places = _places(header, f"{source} has", first)
    exact = text.startswith(_EXACT)
    splits: Splits = {}
    seen: dict[str, tuple[int, str]] = {}
    for number, line in lines:
        if len(line) > len(header):
            raise RuntimeError(
                f"{source} has {len(line)} values in line {number}, but {len(header)} columns; put "
                "a value that holds the sign between the columns into quotation marks."
            )
        values = {
            column: (line[place] if exact else line[place].strip()) if place < len(line) else ""
            for column, place in places.items()
        }
        empty = next((column for column, value in values.items() if not value), None)
        if empty is not None:
            raise RuntimeError(
                f"{source} has no {empty} in line {number}; add it or remove the line."
            )
        path, label = values["path"], nfc(values["label"])
        split = values.get("split", "train")
        if split not in _SPLITS:
            raise RuntimeError(
                f"{source} has the split '{split}' in line {number}; write train, val or test."
            )
        name, place = find(path, f"{source} names '{path}' in line {number}")
        if place in seen:
            before, spelling = seen[place]
            again = "" if path == spelling else f" as '{path}'"
            raise RuntimeError(
                f"{source} names '{spelling}' in line {before} and again in line {number}{again}; "
                "name each picture once."
            )
        seen[place] = number, path
        splits.setdefault(split, []).append((name, label))
    if not splits:
        raise RuntimeError(f"{source} names no picture; write one picture a line.")
    told = "split" in places
    return {split: splits.get(split, []) for split in _SPLITS if told or split in splits}, told


def find_below(root: Path) -> Find:
    """Return a function that finds a picture below ``root``, for :func:`read_table`."""

    def find(path: str, fault: str) -> tuple[str, str]:
        try:
            file = existing(root / path)  # with its name in the Unicode form that it has on disk
            is_there = file.is_file()
        except OSError as error:  # such as a name that is too long
            raise FileNotFoundError(
                f"{fault}, but that path cannot be read ({error.strerror}); correct it."
            ) from error
        if not is_there:
            raise FileNotFoundError(
                f"{fault}, but there is no such file in '{root}'; put it there, correct the path, "
                "or point root (--data.root) at the folder that the paths begin at."
            )
        name = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
        # Links stay: class folders may hold them, and their split is read as a table, too.
        return name, os.path.abspath(file)  # noqa: PTH100  # Path.absolute keeps `..`

    return find


def _lines(text: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that hold something, with their numbers."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for line in lines:
            if any(value.strip() for value in line):
                yield lines.line_num, line
    except csv.Error as error:
        raise RuntimeError(
            f"{source} cannot be read from line {lines.line_num} on ({error}); look for a "
            "quotation mark without a partner."
        ) from error


def _places(header: list[str], fault: str, number: int) -> dict[str, int]:
    """The place of each known column in the first line, which has this number in the file."""
    names = [name.strip().lower() for name in header]
    for column in _COLUMNS:
        if names.count(column) > 1:
            raise RuntimeError(
                f"{fault} the column '{column}' {names.count(column)} times in line {number}; name "
                "each column once."
            )
    for column in ("path", "label"):
        if column not in names:
            found = ", ".join(name.strip() for name in header) or "nothing"
            raise RuntimeError(
                f"{fault} no column '{column}' (its first line has {found}); name the columns "
                "in the first line, path and label."
            )
    return {column: names.index(column) for column in _COLUMNS if column in names}
