"""Compact graphs on maps of both kinds: filters are matrices on small ones, and convolutions."""

import pytest
import torch

from wiring_lightning.backbones import NeuralGraph

# A block of a static graph has no live node with these few edges, on maps of 8 x 8 and 12 x 12.
FEW = {"nodes": 20, "inputs": 3, "outputs": 4, "depth": 3, "edges": 3, "strides": (1, 1)}


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize("dynamics", ["static", "discrete", "continuous"])
def test_a_part_without_live_nodes_computes_nothing(dynamics: str, side: int) -> None:
    empty = 0
    for seed in range(4):
        torch.manual_seed(seed)
        network = NeuralGraph(dynamics, image_size=side, **FEW).double().eval()
        small, images = network.compact(), torch.randn(2, 3, side, side).double()
        empty += 0 in small.sizes
        with torch.no_grad():
            torch.testing.assert_close(small(images), network(images), atol=1e-2, rtol=0)
    assert empty
