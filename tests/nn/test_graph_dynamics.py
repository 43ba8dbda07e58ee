"""The solver of a graph in continuous time, in numbers of several kinds."""

import pytest
import torch
from torch import nn

from wiring_lightning.backbones import NeuralGraph


def network(tolerance: float) -> nn.Module:
    torch.manual_seed(0)
    return NeuralGraph(
        "continuous", nodes=20, inputs=6, outputs=10, edges=100, strides=(2, 1), image_size=8,
        in_channels=1, tolerance=tolerance,
    ).eval()  # fmt: skip


def test_coarse_numbers_are_named_where_the_solver_ends() -> None:
    images = torch.rand(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"tolerance of 0.001 in float16: compute in bfloat16"):
        network(1e-3).half()(images.half())
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="in float16"):
        network(1e-3)(images)


@pytest.mark.parametrize(
    ("number", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 1e-3), (torch.float16, 0.1)]
)
def test_what_the_message_advises_works(number: torch.dtype, tolerance: float) -> None:
    images = torch.rand(4, 1, 8, 8)
    found = network(tolerance).to(number)(images.to(number))
    expected = network(tolerance)(images)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
