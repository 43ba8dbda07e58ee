"""The numbers that a run has logged, from TensorBoard's event files or a `metrics.csv`."""

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
        folder: of a run. Event files in it come first; what they lack is read from the
            `metrics.csv` of Lightning's `CSVLogger`. Folders below it are not read.

    Raises:
        ValueError: if the `metrics.csv` holds something else than numbers.

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
    return {**_read_csv(folder / _CSV), **read}


def _read_csv(file: Path) -> dict[str, list[Scalar]]:
    read: dict[str, list[Scalar]] = {}
    if not file.is_file():
        return read
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
