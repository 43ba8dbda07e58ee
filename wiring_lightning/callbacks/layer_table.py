"""The table of the layers of a network with sparse weights, for people and for loggers."""

from collections.abc import Sequence

from wiring_lightning.costs.layers import LayerCost, sum_of
from wiring_lightning.costs.shares import percent

_COLUMNS = ("layer", "shape", "kept", "weights", "density", "dead_rows", "dead_columns")
_COSTS = ("multiply_adds", "dense")

Cell = str | int | float | None


def layer_table(rows: Sequence[LayerCost]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """A row for every layer, and one for all of them.

    Args:
        rows: the layers, as of `costs.layer_costs`.

    Returns:
        The names of the columns: layer, shape, weights that are there and all, their share, outputs
        that read nothing and inputs that nobody reads. If they are known, multiply-adds of the
        weights that are there and of all. The rows; `None` where there is nothing to say.
    """
    known = bool(rows) and sum_of(rows).multiply_adds is not None
    table = [_cells(row, known) for row in [*rows, sum_of(rows)]]
    return (*_COLUMNS, *(_COSTS if known else ())), table


def layer_text(rows: Sequence[LayerCost], most: int | None = None) -> str:
    """The table in aligned columns.

    Args:
        rows: the layers.
        most: of how many layers to show a row; those in the middle are left out.

    Example:
        >>> from torch import nn
        >>> from wiring_lightning.costs import layer_costs
        >>> network = nn.Sequential(*(nn.Linear(size + 10, size) for size in (40, 30, 20, 10)))
        >>> network[3].weight.data[5:] = 0
        >>> print(layer_text(layer_costs(network), most=2))
        layer       shape     kept  weights  density  dead rows  dead columns
        0           40 x 50  2,000    2,000   100.0%          0             0
        ... 2 more
        3           10 x 20    100      200    50.0%          5             0
        all layers           3,900    4,000    97.5%          5             0
    """
    columns, cells = layer_table(rows)
    lines = [[column.replace("_", " ") for column in columns]]
    lines += [[_text(cell) for cell in row] for row in cells]
    lines[0] = ["multiply-adds" if cell == "multiply adds" else cell for cell in lines[0]]
    left_out = 0 if most is None or len(rows) < most + 2 else len(rows) - most  # not one alone
    first = 1 + len(rows) - left_out - (len(rows) - left_out) // 2  # with the line of the names
    if left_out:
        lines[first : first + left_out] = [[f"... {left_out:,} more"]]
    widths = [max(len(line[i]) for line in lines if len(line) > i) for i in range(len(columns))]
    aligned = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=False))
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned)


def _cells(row: LayerCost, with_costs: bool) -> list[Cell]:
    cells: list[Cell] = [
        row.name,
        " x ".join(map(str, row.shape)),
        row.kept,
        row.weights,
        row.density,
        row.dead_rows,
        row.dead_columns,
    ]
    return [*cells, row.kept_multiply_adds, row.multiply_adds] if with_costs else cells


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return percent(cell)
    return f"{cell:,}" if isinstance(cell, int) else cell
