"""Where the states of a fabric go: in a grid of columns and scales, or in stages to and fro."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wiring_lightning.wiring import Wiring

Points = NDArray[np.float64]

_GRID = re.compile(r"column(\d+)\.scale(\d+)")
_SNAKE = re.compile(r"stage(\d+)\.block(\d+)")


@dataclass(frozen=True, eq=False)
class FabricLayout:
    """Places of the states of a fabric, from the input to the output.

    Args:
        places: `[states, 2]` centres, in steps to the right and up.
        columns: horizontal place of every label above the picture.
        rows: vertical place of every label on its left.
        pitch: inches that a step to the right and a step up take.
    """

    places: Points
    columns: Mapping[str, float]
    rows: Mapping[str, float]
    pitch: tuple[float, float]


def lay_out(wiring: Wiring) -> FabricLayout | None:
    """Lay out a fabric by the names of its states; `None` for a wiring that is no fabric.

    A grid has its columns from left to right and its scales from fine to coarse. Of stages, the
    first runs to the right, the second back to the left, and so on: this puts every state beside or
    below those that it reads.

    Example:
        >>> from wiring_lightning.backbones import ConvFabric, ResNetFabric, ResNeXt
        >>> lay_out(ConvFabric(2, 4, scales=2).wiring()).places.tolist()
        [[0.0, 0.0], [0.0, -1.0], [1.0, 0.0], [1.0, -1.0], [2.0, -1.0]]
        >>> lay_out(ResNetFabric(width=1).wiring()).places.tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, -1.0], [1.0, -2.0], [2.0, -2.0]]
        >>> lay_out(ResNeXt(depth=11).wiring()) is None
        True
    """
    *states, output = states_of(wiring)[0]
    if output != "classifier":
        return None
    for pattern, place_all in ((_GRID, _grid), (_SNAKE, _snake)):
        found = [pattern.fullmatch(name) for name in states[1:]]
        numbers = [(int(match[1]), int(match[2])) for match in found if match]
        if numbers and len(numbers) == len(found):
            return place_all(numbers)
    return None


def states_of(wiring: Wiring) -> tuple[list[str], list[int]]:
    """Name of every state, and the number of the state that each node computes or adds to.

    The last node of a group is its sum. Groups without nodes, as in a compact network, are none.
    """
    _, state = wiring.nodes.group.unique(return_inverse=True)
    names = dict(zip(state.tolist(), wiring.nodes.names, strict=True))
    return [names[number].removesuffix(".sum") for number in range(len(names))], state.tolist()


def _grid(numbers: list[tuple[int, int]]) -> FabricLayout:
    """The first node of the first column is the stem; the output is on the right of the last."""
    columns, scales = (max(part) for part in zip(*numbers, strict=True))
    places = [(column - 1.0, 1.0 - scale) for column, scale in [(1, 1), *numbers]]
    places.append((places[-1][0] + 1, places[-1][1]))
    return FabricLayout(
        np.array(places),
        {f"column {column}": column - 1.0 for column in range(1, columns + 1)},
        {f"scale {scale}": 1.0 - scale for scale in range(1, scales + 1)},
        (1.0, 0.8),
    )


def _snake(numbers: list[tuple[int, int]]) -> FabricLayout:
    """Before every stage stands what would be its position 0: the last one of the stage before."""
    stages, width = (max(part) for part in zip(*numbers, strict=True))
    places = [(0.0, 0.0)]
    places += [
        (float(block if stage % 2 else width - block), 1.0 - stage) for stage, block in numbers
    ]
    ahead = 1 if stages % 2 else -1
    places.append((places[-1][0] + ahead, places[-1][1]))
    rows = {f"stage {stage} {'←→'[stage % 2]}": 1.0 - stage for stage in range(1, stages + 1)}
    return FabricLayout(np.array(places), {}, rows, (0.6 if width > 9 else 0.8, 1.3))
