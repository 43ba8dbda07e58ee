"""Which earlier outputs a layer of a sparsely aggregated network reads."""

from typing import Literal

Pattern = Literal["log", "dense"]


def offsets(layer: int, pattern: Pattern = "log", base: int = 2) -> tuple[int, ...]:
    """The distances from a layer to the earlier outputs that it reads, nearest first.

    `"log"` is `1, c, c^2, ...` up to the layer's own number (SparseNet, Equation 2): at most
    `floor(log_c layer) + 1` sources. `"dense"` is `1, 2, ..., layer` (Equation 3), the topology of
    ResNet and DenseNet. Output 0 is the input of the stage, so layers count from 1.

    Args:
        layer: the number of the layer, from 1. The transition or classifier behind a stage of n
            layers reads as layer n + 1.
        pattern: `"log"` or `"dense"`.
        base: c, an integer of at least 2; not used by `"dense"`.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> offsets(12), offsets(12, base=3), offsets(4, "dense")
        ((1, 2, 4, 8), (1, 3, 9), (1, 2, 3, 4))
    """
    check_pattern(pattern, base)
    if layer < 1:
        raise ValueError(f"layers count from 1, because 0 is the input of a stage; got {layer}.")
    if pattern == "dense":
        return tuple(range(1, layer + 1))
    distances, offset = [], 1
    while offset <= layer:
        distances.append(offset)
        offset *= base
    return tuple(distances)


def sources(layer: int, pattern: Pattern = "log", base: int = 2) -> tuple[int, ...]:
    """The outputs that a layer reads, oldest first, as DenseNet concatenates them.

    Arguments and errors as for `offsets`.

    Example:
        >>> sources(12), sources(4, "dense")
        ((4, 8, 10, 11), (0, 1, 2, 3))
    """
    return tuple(layer - offset for offset in reversed(offsets(layer, pattern, base)))


def last_reader(output: int, layers: int, pattern: Pattern = "log", base: int = 2) -> int:
    """The last layer of a stage that reads an output; after it the output can be freed.

    Args:
        output: number of the output, from 0 (the input of the stage) to `layers`.
        layers: number of layers of the stage; the next module reads as layer `layers + 1`.
        pattern: as for `offsets`.
        base: as for `offsets`.

    Example:
        >>> [last_reader(output, layers=6) for output in range(7)]
        [4, 5, 6, 7, 6, 7, 7]
    """
    if not 0 <= output <= layers:
        raise ValueError(f"output must be between 0 and {layers}, got {output}.")
    # The largest offset from this output that does not lead beyond the end of the stage.
    return output + offsets(layers + 1 - output, pattern, base)[-1]


def check_pattern(pattern: str, base: int) -> None:
    """Raise a `ValueError` if the pattern is unknown or the base is below 2."""
    if pattern not in ("log", "dense"):
        raise ValueError(f'pattern must be "log" or "dense", got "{pattern}".')
    if base < 2:
        raise ValueError(f"base (c) must be an integer of at least 2, got {base}.")
