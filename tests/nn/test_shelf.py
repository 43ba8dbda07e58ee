import pytest

from wiring_lightning.functional import sources
from wiring_lightning.nn import Shelf, StagePlan


@pytest.mark.parametrize("layers", [1, 2, 5, 16, 40])
@pytest.mark.parametrize(("pattern", "base"), [("log", 2), ("log", 3), ("dense", 2)])
def test_holds_what_later_layers_read_and_nothing_else(
    pattern: str, base: int, layers: int
) -> None:
    reads = {layer: set(sources(layer, pattern, base)) for layer in range(1, layers + 2)}
    shelf = Shelf(StagePlan(layers, pattern, base), "y0")
    for layer in range(1, layers + 2):
        assert shelf.take() == [f"y{source}" for source in sorted(reads[layer])]
        later = set().union(*(reads[other] for other in range(layer + 1, layers + 2)))
        assert set(shelf.held) == {output for output in later if output < layer}
        if layer <= layers:
            shelf.put(f"y{layer}")
    assert len(shelf) == 0


def test_two_thirds_of_a_deep_stage_are_enough() -> None:
    shelf = Shelf(StagePlan(666), 0)
    most = 0
    for layer in range(1, 667):
        shelf.take()
        shelf.put(layer)
        most = max(most, len(shelf))
    assert most < 2 / 3 * 666
