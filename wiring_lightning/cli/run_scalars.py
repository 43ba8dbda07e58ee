"""The numbers that a run has logged, from TensorBoard's event files or `metrics.csv` files."""

import csv
from pathlib import Path
from typing import NamedTuple

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

_CSV = "metrics.csv"


class Scalar(NamedTuple):
    """A number, and the training step that it was logged at."""

    step: int
    value: float


def read_scalars(folder: Path) -> dict[str, list[Scalar]]:
    r"""All numbers by name, such as `test/acc`, in the order in which they were logged.

    Args:
        folder: of a run. Its event files are read, and the `metrics.csv` of Lightning's
            `CSVLogger` after those of earlier commands in the same folder: `metrics_1.csv` and so
            on. Of a number that is in both, those count that reach the later step. Folders below it
            are not read.

    Raises:
        ValueError: if one of these files holds something else than numbers.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     text = "epoch,step,test/acc,val/acc\n0,9,,0.5\n1,19,,0.75\n1,20,0.25,\n"
        ...     _ = Path(folder, "metrics.csv").write_text(text)
        ...     read_scalars(Path(folder))["val/acc"]
        [Scalar(step=9, value=0.5), Scalar(step=19, value=0.75)]
    """
    keep_all, keep_few = 0, 1
    events = EventAccumulator(
        str(folder), {"scalars": keep_all, "images": keep_few, "tensors": keep_few}
    )
    events.Reload()
    read = {
        tag: [Scalar(event.step, float(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    tables: dict[str, list[Scalar]] = {}
    for file in _tables_in(folder):
        for name, scalars in _read_csv(file).items():
            tables.setdefault(name, []).extend(scalars)
    return {name: _joined(tables.get(name, []), read.get(name, [])) for name in {**tables, **read}}


def _joined(table: list[Scalar], events: list[Scalar]) -> list[Scalar]:
    """Numbers of two loggers: those that reach further, after what the other has of steps before.

    If a run had both loggers, they reach equally far, and events have all of it.
    """
    if not table or not events:
        return table or events
    first, then = sorted((table, events), key=lambda scalars: scalars[-1].step)
    return [scalar for scalar in first if scalar.step < then[0].step] + then


def _tables_in(folder: Path) -> list[Path]:
    """The files of a `CSVLogger` in the order in which they were written.

    A command that goes on in a folder gives the file that is there the next number first.
    """
    name = Path(_CSV)
    numbers = (path.stem.removeprefix(f"{name.stem}_") for path in folder.glob(f"{name.stem}_*"))
    earlier = sorted({int(number) for number in numbers if number.isdecimal()})
    paths = [folder / f"{name.stem}_{number}{name.suffix}" for number in earlier] + [folder / name]
    return [path for path in paths if path.is_file()]


def _read_csv(file: Path) -> dict[str, list[Scalar]]:
    read: dict[str, list[Scalar]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as text:
            for row in csv.DictReader(text, strict=True):
                step = int(row.pop("step", None) or 0)
                for name, value in row.items():
                    if value:  # a row has the numbers of one moment, and is empty elsewhere
                        read.setdefault(name, []).append(Scalar(step, float(value)))
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{file} is no table of numbers as Lightning's CSVLogger writes it ({error}): move it "
            "out of the run's folder, or log the run again."
        ) from error
    return read
