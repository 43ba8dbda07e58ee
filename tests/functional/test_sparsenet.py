import math
from collections import deque

import pytest

from wiring_lightning.functional import last_reader, offsets, sources

LAYERS, BASES = 300, (2, 3, 4, 5)
bases = pytest.mark.parametrize("base", BASES)


@bases
def test_sources_are_those_of_equation_2(base: int) -> None:
    for layer in range(1, LAYERS + 1):
        k = max(k for k in range(10) if base**k <= layer)
        expected = [layer - base**exponent for exponent in range(k + 1)]
        assert offsets(layer, base=base) == tuple(layer - source for source in expected)
        assert sources(layer, base=base) == tuple(reversed(expected))


def test_dense_sources_are_those_of_equation_3() -> None:
    for layer in range(1, LAYERS + 1):
        assert offsets(layer, "dense") == tuple(range(1, layer + 1))
        assert sources(layer, "dense", base=7) == tuple(range(layer))


# Table 1 of the paper


@bases
def test_a_layer_reads_a_logarithmic_number_of_outputs(base: int) -> None:
    for layer in range(1, LAYERS + 1):
        # The logarithm of a power may come out a little too small.
        bound = math.floor(math.log(layer, base) + 1e-9) + 1
        assert len(offsets(layer, base=base)) == bound
    assert len(offsets(2000, base=base)) <= math.log(2000, base) + 1


def _paths_to(layer: int, pattern: str, base: int) -> dict[int, int]:
    """Fewest connections from every earlier output to a layer, by breadth-first search."""
    found = {layer: 0}
    queue = deque([layer])
    while queue:
        node = queue.popleft()
        for source in sources(node, pattern, base) if node else ():
            if source not in found:
                found[source] = found[node] + 1
                queue.append(source)
    return found


@bases
def test_the_shortest_path_grows_with_the_logarithm_of_the_distance(base: int) -> None:
    """At most c - 1 steps for every digit of the distance in base c, and no fewer for c^m - 1."""
    lengths = _paths_to(LAYERS, "log", base)
    assert len(lengths) == LAYERS + 1
    for output, length in lengths.items():
        distance = LAYERS - output
        if distance:
            assert length <= (base - 1) * (math.log(distance, base) + 1 + 1e-9)
    for digits in range(1, int(math.log(LAYERS, base)) + 1):
        assert lengths[LAYERS - (base**digits - 1)] == (base - 1) * digits
    assert set(_paths_to(LAYERS, "dense", base).values()) == {0, 1}


@bases
def test_the_number_of_connections_is_that_of_equation_4(base: int) -> None:
    """Equation 4 and one more for the offset 1 of each layer; dense is quadratic."""
    for depth in (10, 100, 300, 2000):
        total = sum(len(offsets(layer, base=base)) for layer in range(1, depth + 1))
        logarithms = sum(math.floor(math.log(n, base) + 1e-9) for n in range(1, depth + 1))
        assert total == logarithms + depth <= depth * (math.log(depth, base) + 1)
    assert sum(len(offsets(layer, "dense")) for layer in range(1, 101)) == 100 * 101 // 2


# When an output can go


@pytest.mark.parametrize(("pattern", "base"), [("log", 2), ("log", 3), ("log", 5), ("dense", 2)])
def test_the_last_reader_is_the_last_of_all_readers(pattern: str, base: int) -> None:
    for layers in (1, 2, 7, 8, 9, 60):
        readers: dict[int, list[int]] = {output: [] for output in range(layers + 1)}
        for layer in range(1, layers + 2):
            for source in sources(layer, pattern, base):
                readers[source].append(layer)
        for output, found in readers.items():
            assert last_reader(output, layers, pattern, base) == max(found)


def test_bad_arguments_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        offsets(3, base=1)
    with pytest.raises(ValueError, match='"log" or "dense", got "sparse"'):
        offsets(3, "sparse")
    with pytest.raises(ValueError, match=r"count from 1, .* got 0"):
        sources(0)
    with pytest.raises(ValueError, match="between 0 and 4, got 5"):
        last_reader(5, layers=4)
