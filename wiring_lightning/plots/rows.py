"""The rows of a wiring: their nodes, their names, and their positions on a page.

A row is a group of nodes, such as the branches of a module.
"""

from math import ceil, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wiring_lightning.wiring import Wiring

Points = NDArray[np.float64]

_MAX_ROWS = 60  # more rows are drawn in several columns
_WIDTH, _HEIGHT = 12.0, 15.0  # maximum size of all nodes, in inches


def check_one(wiring: Wiring) -> None:
    """Refuse a batch of architectures, of which a picture can show only one.

    Raises:
        ValueError: if the wiring is one.
    """
    if wiring.active.dim() != 1:
        raise ValueError(
            "A picture shows one architecture, but this wiring holds a batch of shape "
            f"{tuple(wiring.active.shape[:-1])}; select one with `with_active`."
        )


def inner_nodes(wiring: Wiring) -> Tensor:
    """`[nodes]` mask of the nodes that are neither the input nor the output."""
    inner = torch.ones(len(wiring.nodes), dtype=torch.bool, device="cpu")
    inner[[0, -1]] = False
    return inner


def row_names(wiring: Wiring) -> list[str]:
    """Name of every group: the part before the last dot in the name of its first node."""
    names = [""] * len(wiring.nodes.group_parameters)
    for name, row in zip(wiring.nodes.names, wiring.nodes.group.tolist(), strict=True):
        names[row] = names[row] or name.rpartition(".")[0] or name
    return names


def count_live(wiring: Wiring) -> str:
    """A text such as `"66 of 72 branches live"`, which does not count input and output."""
    inner = inner_nodes(wiring)
    live = int((inner & wiring.live_nodes).sum())
    return f"{live:,} of {int(inner.sum()):,} {wiring.noun[1]} live"


def rank_in_group(group: Tensor) -> Tensor:
    """`[nodes]` position of every node among the nodes of its group.

    Example:
        >>> rank_in_group(torch.tensor([0, 1, 1, 0, 1])).tolist()
        [0, 0, 1, 1, 2]
    """
    order = group.argsort(stable=True)
    sizes = group.bincount()
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group), device="cpu") - starts[group[order]]
    return rank


class Layout:
    """Rows of nodes from top to bottom; with several columns, every second one goes upwards.

    Args:
        wiring: the wiring to lay out.

    Attributes:
        node: side of a node's square, in points.
        rows: `[groups, 2]` centre of every row.
        nodes: `[nodes, 2]` centre of every node.
        columns: number of columns.

    Example:
        >>> from wiring_lightning.wiring import make_wiring
        >>> layout = Layout(make_wiring(["in", "a", "b", "out"], [0, 0, 1, 2], [1, 2, 3, 3],
        ...                             [True] * 4, group=[0, 1, 1, 2]))
        >>> (layout.nodes[:, 0] * 10).round().astype(int).tolist()
        [0, -4, 4, 0]
    """

    def __init__(self, wiring: Wiring) -> None:
        group = wiring.nodes.group
        sizes = group.bincount()
        count, widest = len(sizes), int(sizes.max())
        self.columns = 1 if count <= _MAX_ROWS else ceil(sqrt(count / (widest + 1)))
        self.per_column = ceil(count / self.columns)
        slots = self.columns * (widest + (self.columns > 1))
        pitch_x = min(0.8, _WIDTH / slots)
        pitch_y = min(0.8, max(10 / self.per_column, 0.4), _HEIGHT / self.per_column)
        if self.columns > 1:
            pitch_x = pitch_y = min(0.4, pitch_x, pitch_y)
        self.node = 72 * float(np.clip(0.42 * min(pitch_x, pitch_y), 0.03, 0.3))
        column, line = np.divmod(np.arange(count), self.per_column)
        line = np.where(column % 2, self.per_column - 1 - line, line)
        self.rows: Points = np.stack([column * (widest + 1) * pitch_x, -line * pitch_y], axis=1)
        offset = (rank_in_group(group) - (sizes[group] - 1) / 2).numpy() * pitch_x
        self.nodes: Points = self.rows[group.numpy()]
        self.nodes[:, 0] += offset
        self._group = group.numpy()

    def lines(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> Points:
        """`[edges, points, 2]`: a line for every edge, curved if it skips rows."""
        bent = (self._group[target] - self._group[source]) != 1
        start, end = self.nodes[source][:, None], self.nodes[target][:, None]
        # Lines end at the border of a square, so that they do not cross its neighbours.
        half = np.zeros_like(start)
        half[..., 1] = np.sign(end - start)[..., 1] * self.node / 144 * ~bent[:, None]
        start, end = start + half, end - half
        if not bent.any():
            return np.concatenate([start, end], axis=1)
        # Half an ellipse, higher for larger distances: it starts at a right angle to the straight
        # line, so that the edges of a node separate at once.
        way = end - start
        aside = np.stack([-way[..., 1], way[..., 0]], axis=-1)
        angle = np.linspace(0, np.pi, 65 if len(source) < 1000 else 13)[:, None]
        height = 0.25 * np.sin(angle) * bent[:, None, None]
        curves: Points = start + (1 - np.cos(angle)) / 2 * way + height * aside
        return curves
