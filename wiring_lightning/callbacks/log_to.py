"""Send pictures, tables and hyper-parameters to a logger, if it can take them.

Numbers need no help: every logger of Lightning's has `log_metrics`.
"""

import csv
import inspect
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100  # loggers show pictures pixel by pixel


def takes_pictures(logger: Logger) -> bool:
    """Whether a logger can show pictures: TensorBoard, MLflow, and those with W&B's `log_image`.

    Example:
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> takes_pictures(TensorBoardLogger("logs")), takes_pictures(CSVLogger("logs"))
        (True, False)
    """
    return _knows(logger, "log_image", "key", "images", "step")


def takes_tables(logger: Logger) -> bool:
    """Whether a logger can show tables: TensorBoard, MLflow, and those with W&B's `log_table`."""
    return _knows(logger, "log_table", "key", "columns", "data")


def send_picture(logger: Logger, name: str, figure: "Figure", step: int) -> None:
    """Send a figure; nothing happens if the logger takes no pictures.

    Args:
        logger: any logger.
        name: such as `wiring/graph`.
        figure: of matplotlib.
        step: the training step that the figure shows.
    """
    if not takes_pictures(logger):
        return
    figure.set_dpi(_DPI)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
        return
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    image = Image.open(file).convert("RGB")
    if isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, key=name, step=step)
    else:
        other: Any = logger  # W&B's, and others with its method
        other.log_image(key=name, images=[image], step=step)


def send_table(
    logger: Logger, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
) -> None:
    """Send a table; nothing happens if the logger takes no tables.

    TensorBoard gets it as a text, MLflow as the file `name.csv`.

    Args:
        logger: any logger.
        name: such as `wiring/modules`.
        columns: the names of the columns.
        rows: for each row a value for every column; `None` is an empty cell.
        step: the training step that the table shows.
    """
    if not takes_tables(logger):
        return
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text(name, _markdown(columns, rows), step)
    elif isinstance(logger, MLFlowLogger):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        logger.experiment.log_text(logger.run_id, text.getvalue(), f"{name}.csv")
    else:
        other: Any = logger
        other.log_table(key=name, columns=list(columns), data=[list(row) for row in rows])


def send_hyperparameters(logger: Logger, values: Mapping[str, Any]) -> None:
    """Send the settings of a run.

    MLflow keeps the first value of a setting and refuses another one, as when a run goes on with
    more epochs: what it knows already is left out.

    Args:
        logger: any logger.
        values: plain values by name.
    """
    if isinstance(logger, MLFlowLogger):
        known = logger.experiment.get_run(logger.run_id).data.params
        values = {name: value for name, value in values.items() if name not in known}
    logger.log_hyperparams(dict(values))


def _knows(logger: Logger, method: str, *arguments: str) -> bool:
    if isinstance(logger, DummyLogger):  # of a fast_dev_run; it accepts everything
        return False
    if isinstance(logger, TensorBoardLogger | MLFlowLogger):
        return True
    found = getattr(logger, method, None)
    if not callable(found):
        return False
    try:  # another library may mean something else by this name
        inspect.signature(found).bind(**dict.fromkeys(arguments))
    except TypeError:
        return False
    return True


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as TensorBoard renders it.

    Example:
        >>> print(_markdown(["module", "entropy"], [["module2", 0.51234567], ["module1", None]]))
        | module | entropy |
        | --- | --- |
        | module2 | 0.5123 |
        | module1 |  |
    """
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
