import pytest
import torch
from torch import nn

from wiring_lightning.nn import PointwiseConv2d


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_a_grouped_convolution(groups: int, batch: int, layout: torch.memory_format) -> None:
    ours = PointwiseConv2d(12, 18, groups).double()
    plain = nn.Conv2d(12, 18, 1, groups=groups, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(batch, 12, 5, 4, dtype=torch.float64).to(memory_format=layout)
    images.requires_grad_()
    twin = images.detach().clone().requires_grad_()
    actual, expected = ours(images), plain(twin)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    probe = torch.randn_like(expected)
    (actual * probe).sum().backward()
    (expected * probe).sum().backward()
    torch.testing.assert_close(images.grad, twin.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=0, atol=1e-12)


def test_it_starts_from_the_same_weights_as_a_convolution() -> None:
    ours = PointwiseConv2d(12, 18, 3)
    torch.manual_seed(0)
    assert torch.equal(ours.weight, nn.Conv2d(12, 18, 1, groups=3, bias=False).weight)


def test_matrices_map_every_group_by_itself() -> None:
    ours = PointwiseConv2d(6, 8, 2)
    pixel = torch.randn(6)
    first, second = ours.matrices
    expected = torch.cat([first @ pixel[:3], second @ pixel[3:]])
    torch.testing.assert_close(ours(pixel.view(1, 6, 1, 1)).flatten(), expected)


def test_an_empty_batch_stays_empty() -> None:
    images = torch.randn(0, 6, 5, 5)
    assert PointwiseConv2d(6, 4, groups=2)(images).shape == (0, 4, 5, 5)
