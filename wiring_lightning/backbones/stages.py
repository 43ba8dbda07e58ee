"""How many layers a network has in each of its stages."""

from collections.abc import Mapping
from typing import TypeVar

Layout = TypeVar("Layout")


def equal_stages(depth: int, layers: int, others: int, rule: str) -> tuple[int, int, int]:
    """Blocks in each of three equal stages.

    Args:
        depth: number of layers of the network.
        layers: layers of a block.
        others: layers of the network that are in no block.
        rule: what a depth must be, in words.

    Raises:
        ValueError: if the depth leaves no block for a stage, or stages would not be equal.

    Example:
        >>> equal_stages(38, layers=2, others=2, rule="2 + 6n")
        (6, 6, 6)
    """
    blocks, left = divmod(depth - others, 3 * layers)
    if blocks < 1 or left:
        raise ValueError(f"depth must be {rule}, got {depth}.")
    return blocks, blocks, blocks


def imagenet_layout(depth: int, layouts: Mapping[int, Layout]) -> Layout:
    """What a network of some depth is made of, by the table of a paper.

    Raises:
        ValueError: if the table has no such depth.
    """
    if depth not in layouts:
        raise ValueError(
            f"depth must be one of {', '.join(map(str, layouts))} with the imagenet stem, got "
            f"{depth}."
        )
    return layouts[depth]
