"""Numbers of layers in the stages of a network."""

from collections.abc import Mapping
from typing import TypeVar

Layout = TypeVar("Layout")


def equal_stages(depth: int, layers: int, others: int, rule: str) -> tuple[int, int, int]:
    """Blocks in each of three equal stages.

    Args:
        depth: number of layers of the network.
        layers: number of layers of a block.
        others: number of layers that are in no block.
        rule: which depths are possible, for the message.

    Raises:
        ValueError: if the depth is none of them.

    Example:
        >>> equal_stages(38, layers=2, others=2, rule="2 + 6n")
        (6, 6, 6)
    """
    blocks, left = divmod(depth - others, 3 * layers)
    if blocks < 1 or left:
        raise ValueError(f"depth must be {rule}, got {depth}.")
    return blocks, blocks, blocks


def imagenet_layout(depth: int, layouts: Mapping[int, Layout]) -> Layout:
    """The layout of a depth in the table of a paper.

    Args:
        depth: number of layers of the network.
        layouts: the table.

    Raises:
        ValueError: if the table has no such depth.

    Example:
        >>> imagenet_layout(50, {50: (3, 4, 6, 3)})
        (3, 4, 6, 3)
    """
    if depth not in layouts:
        raise ValueError(
            f"depth must be one of {', '.join(map(str, layouts))} with the imagenet stem, got "
            f"{depth}."
        )
    return layouts[depth]
