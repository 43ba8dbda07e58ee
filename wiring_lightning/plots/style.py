"""Colours, figures, axes and legends of all pictures, and saving a figure."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from wiring_lightning.files import picture_path, write_file

DPI = 130
# Green and vermilion of Okabe and Ito's palette for colour-blind readers.
LIVE, END = "#009E73", "#D55E00"
PRUNED = "#9AA0A6"
LEARNED, GIVEN, DEAD = "#12324F", "#8A939C", "#DADDE1"
INK, GRID = "#3C4043", "#E3E5E8"
# For several networks in one picture: from the same palette, dark and light in turn.
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# In inches: what a figure has room for below a diagram, and what it keeps beside a legend.
_LEGEND_HEIGHT, _DIAGRAM_WIDTH, _PAD = 0.8, 3.0, 0.1


def series(index: int) -> tuple[str, str]:
    """Colour and marker of one network among several; 36 of them are told apart.

    Example:
        >>> [series(index) for index in (0, 6, 36)]
        [('#0072B2', 'o'), ('#0072B2', 's'), ('#0072B2', 'o')]
    """
    again, color = divmod(index, len(SERIES))
    return SERIES[color], _MARKERS[(color + again) % len(_MARKERS)]


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """A white figure, with sizes in inches and an optional headline."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, size=12)
    return figure


def new_axes(width: float, height: float, title: str | None = None) -> tuple[Figure, Axes]:
    """A figure with one diagram, and a headline on the left."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title or "", loc="left", size=11)
    return figure, axes


def set_axes(
    axes: Axes, across: str, up: str, grid: Literal["x", "y", "both"] | None = None
) -> None:
    """Name both axes, draw a faint grid, and leave out the frame on the right and above."""
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)


def use_integers(*sides: Axis) -> None:
    """Put ticks at whole numbers only."""
    for side in sides:
        side.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def use_sizes(*sides: Axis) -> None:
    """Write numbers as 500k or 2M, and mark 1, 2 and 5 of every decade of a logarithmic axis."""
    for side in sides:
        if side.get_scale() == "log":
            side.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.set_minor_formatter(NullFormatter())
        side.set_major_formatter(EngFormatter(sep=""))


def legend_below(figure: Figure, entries: Sequence[Artist], columns: int = 3) -> None:
    """Add a legend below the diagrams that is filled line by line.

    It has fewer columns if they are too wide for the figure, and the figure grows with its lines.
    """
    width, height = figure.get_size_inches()
    for count in range(columns, 0, -1):
        # Matplotlib fills column by column.
        handles = [entry for column in range(count) for entry in entries[column::count]]
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=count, frameon=False, fontsize=9
        )
        needed_width, needed_height = _inches(legend)
        if needed_width <= width or count == 1:
            break
        legend.remove()
    figure.set_size_inches(
        max(width, needed_width), height + max(0.0, needed_height - _LEGEND_HEIGHT)
    )


def legend_on_the_right(figure: Figure) -> None:
    """Add a legend of all labels on the right of the diagram; the figure grows with it."""
    legend = figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    (width, height), (needed_width, needed_height) = figure.get_size_inches(), _inches(legend)
    figure.set_size_inches(
        max(width, needed_width + _DIAGRAM_WIDTH), max(height, needed_height + _PAD)
    )


def _inches(legend: Legend) -> tuple[float, float]:
    """Width and height of a legend."""
    box = legend.get_window_extent()
    return box.width / DPI, box.height / DPI


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, and create its folder.

    Args:
        figure: the figure.
        path: file whose ending sets the format, such as `pictures/wiring.png`, `.pdf` or `.svg`;
            without an ending it gets `.png`.

    Raises:
        ValueError: if the ending names no format of pictures.
        OSError: if the file cannot be written; an earlier one is still there.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(), f"{folder}/new/empty.png")
        ...     Path(folder, "new", "empty.png").exists()
        True
    """
    path, content = picture_path(path), BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."))
    write_file(path, content.getbuffer())
