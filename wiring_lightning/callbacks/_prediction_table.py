"""Predictions as a table: the file of each picture, its class, and all probabilities."""

import csv
import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor


def merge_ranks(shares: Sequence[Tensor]) -> tuple[list[int], Tensor]:
    """Put what R processes predicted into the order of the examples.

    Process r has the examples r, r + R, r + 2R, ..., as the loaders of this package share them.

    Args:
        shares: The predictions of each process, ``[N_r, ...]``. A process may have fewer of them.

    Returns:
        The position of each example, ascending, and its prediction, ``[N, ...]``.

    Example:
        >>> merge_ranks([torch.tensor([0, 2, 4]), torch.tensor([1, 3])])
        ([0, 1, 2, 3, 4], tensor([0, 1, 2, 3, 4]))
    """
    places = torch.cat(
        [
            torch.arange(len(share), device="cpu") * len(shares) + rank
            for rank, share in enumerate(shares)
        ]
    )
    order = places.argsort()
    return places[order].tolist(), torch.cat(list(shares))[order]


def table_of(
    files: Sequence[str],
    labels: Sequence[str] | None,
    class_names: Sequence[str],
    probabilities: Tensor,
) -> dict[str, Any]:
    """Return the columns of the table by their names.

    Args:
        files: Names of the N pictures.
        labels: Their true classes, if they are known.
        class_names: Names of the C classes.
        probabilities: Of each class, float32 of shape [N, C].

    Returns:
        ``file``, perhaps ``label``, ``class`` (the most probable one) and ``probability`` (its
        own); then a column ``p_NAME`` with the probabilities of each class.

    Example:
        >>> columns = table_of(["a.png"], None, ["ant", "bee"], torch.tensor([[0.25, 0.75]]))
        >>> columns["class"], columns["p_ant"].tolist()
        (['bee'], [0.25])
    """
    largest, chosen = probabilities.max(1)
    known = {} if labels is None else {"label": [_readable(label) for label in labels]}
    names = [_readable(name) for name in class_names]
    return {
        "file": [_readable(file) for file in files],
        **known,
        "class": [names[index] for index in chosen.tolist()],
        "probability": largest.numpy(),
        **{f"p_{name}": probabilities[:, i].numpy() for i, name in enumerate(names)},
    }


def as_csv(columns: dict[str, Any]) -> bytes:
    """Return a table as CSV in UTF-8, with numbers that are read back as the same float32."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    values = [
        column if isinstance(column, list) else column.astype(str) for column in columns.values()
    ]
    writer.writerows(zip(*values, strict=True))
    return text.getvalue().encode()


def as_parquet(columns: dict[str, Any]) -> memoryview:
    """Return a table as a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content)
    return content.getbuffer()


def has_parquet() -> bool:
    """Whether the package that writes Parquet is installed."""
    return find_spec("pyarrow") is not None


def need_parquet(path: str) -> None:
    """Raise an error if Parquet cannot be written."""
    if not has_parquet():
        raise MisconfigurationException(
            f"PredictionWriter: {path} needs the package pyarrow: run pip install "
            "'wiring_lightning[tables]', or name a path that ends in .csv."
        )


def _readable(name: str) -> str:
    """Bytes of a file's or folder's name that are no UTF-8 become a backslash and a number."""
    return os.fsencode(name).decode(errors="backslashreplace")
