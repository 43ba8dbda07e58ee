"""Densities of layers against what was published for ResNet-50, and their rounding."""

from fractions import Fraction

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from tests.shapes import shapes_only
from wiring_lightning.functional import erdos_renyi_densities
from wiring_lightning.functional.densities import round_counts

# The sparsity in percent that ERK gives the layers of ResNet-50 at 90 %, in the order of its
# layers: column ERK of `budgets/SparsityDistributions_90_ResNet50.csv` in the authors' repository
# of "Soft Threshold Weight Reparameterization" (Kusupati et al., 2020), which compares with RigL.
PUBLISHED_90 = [
    58, 0, 82, 4, 4, 4, 82, 4, 4, 82, 4, 43, 91, 52, 71, 52, 91, 52, 52, 91, 52, 52, 91, 52, 71,
    96, 76, 86, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76, 76, 96, 76, 86, 98, 88, 93, 88, 98,
    88, 88, 98, 88, 93,
]  # fmt: skip
# RigL's README: size in megabytes with one bit a weight for the mask, and operations at inference
# as a share of the dense network's.
PUBLISHED_COST = {0.2: (23.683, 0.42), 0.1: (13.499, 0.24)}


def layers() -> list[tuple[nn.Module, int]]:
    """Convolutions and classifier of ResNet-50, and the pixels of their outputs for 224 x 224."""
    with shapes_only():
        network = resnet50()
        matrices = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        pixels: dict[nn.Module, int] = {}
        for layer in matrices:
            layer.register_forward_hook(lambda own, _, out: pixels.update({own: out[0, 0].numel()}))
        network(torch.empty(1, 3, 224, 224))
        return [(layer, pixels[layer]) for layer in matrices]


def test_erk_gives_resnet_50_the_published_densities() -> None:
    shapes = [layer.weight.shape for layer, _ in layers()]
    densities = erdos_renyi_densities(shapes, 0.1)
    for density, published in zip(densities, PUBLISHED_90, strict=True):
        assert abs(100 * (1 - density) - published) <= 1  # they are printed as whole numbers


@pytest.mark.parametrize("density", PUBLISHED_COST)
def test_erk_gives_resnet_50_the_published_size_and_operations(density: float) -> None:
    found = layers()
    counts = [layer.weight.numel() for layer, _ in found]
    shares = erdos_renyi_densities([layer.weight.shape for layer, _ in found], density)
    kept = round_counts(shares, counts, exact=True)
    assert sum(kept) == round(density * sum(counts))
    biases = sum(layer.weight.shape[0] for layer, _ in found)
    masked = sum(count for count, share in zip(counts, shares, strict=True) if share < 1)
    size, share_of_operations = PUBLISHED_COST[density]
    assert (4 * (sum(kept) + biases) + masked / 8) / 1e6 == pytest.approx(
        size, abs=1e-3
    )  # three digits
    pixels = [own for _, own in found]
    operations = [sum(map(int.__mul__, numbers, pixels)) for numbers in (kept, counts)]
    assert operations[0] / operations[1] == pytest.approx(share_of_operations, abs=0.01)


def test_densities_follow_the_formula_in_exact_arithmetic() -> None:
    shapes = [(4, 6, 3, 3), (16, 8, 1, 1), (10, 64)]
    raw = [Fraction(4 + 6 + 3 + 3, 4 * 6 * 9), Fraction(16 + 8 + 1 + 1, 128), Fraction(74, 640)]
    sizes = [216, 128, 640]
    factor = Fraction(1, 4) * sum(sizes) / sum(r * n for r, n in zip(raw, sizes, strict=True))
    expected = [float(factor * one) for one in raw]
    assert max(expected) < 1
    assert erdos_renyi_densities(shapes, 0.25) == pytest.approx(expected, rel=1e-12)
    channels = erdos_renyi_densities(shapes, 0.25, kernel=False)
    assert channels[0] / channels[1] == pytest.approx((10 / 24) / (24 / 128))


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_sum_is_what_was_asked_for_and_no_layer_is_fuller_than_full(density: float) -> None:
    shapes = [(8, 1, 3, 3), (8, 8), (100, 8), (100, 100, 5, 5), (10, 100)]
    sizes = [72, 64, 800, 250_000, 1000]
    densities = erdos_renyi_densities(shapes, density)
    assert all(0 < one <= 1 for one in densities)
    total = sum(one * size for one, size in zip(densities, sizes, strict=True))
    assert total == pytest.approx(density * sum(sizes), rel=1e-12)
    kept = round_counts(densities, sizes, exact=True)
    assert sum(kept) == round(density * sum(sizes))
    assert all(abs(k - d * n) < 1 for k, d, n in zip(kept, densities, sizes, strict=True))


def test_a_layer_keeps_its_least_number_or_all_that_it_has() -> None:
    assert round_counts([0.01, 0.01, 0.5], [100, 3, 10], least=5) == [5, 3, 5]
    assert round_counts([0.01, 0.01, 0.5], [100, 3, 10], least=5, exact=True) == [5, 3, 5]
