"""Links and paths are those of SparseNet's Table 1."""

import math

from tests.shapes import shapes_only
from wiring_lightning.backbones import SparseNet, SparseResNet
from wiring_lightning.plots import Scaling


def test_scaling_measures_links_and_paths_as_table_1_says() -> None:
    """In a stage of n layers the last one reads 1 + floor(log2(n + 1)), dense ones n + 1."""
    for depth in (40, 100, 202):
        layers = (depth - 4) // 3
        with shapes_only():
            sparse, dense = SparseNet(depth, 4), SparseNet(depth, 4, pattern="dense")
        few = Scaling.of(depth, sparse.wiring())
        many = Scaling.of(depth, dense.wiring())
        assert few.links == 1 + int(math.log2(layers + 1))
        assert many.links == layers + 1
        # Fewest powers of two that a distance is the sum of: its ones in binary. A way out of the
        # first stage is that of an output to what follows, and twice that of an input.
        ones = [bin(distance).count("1") for distance in range(1, layers + 2)]
        assert few.path == max(ones) + 2 * ones[layers]
        assert many.path == 3
        plain = Scaling.of(56, SparseResNet(56, base=56).wiring())
        assert (plain.links, plain.path) == (1, 3 * 7 + 1)
