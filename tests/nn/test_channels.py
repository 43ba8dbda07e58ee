import pytest
import torch
from torch import nn

from wiring_lightning.nn import select_channels
from wiring_lightning.nn.graph_stage import RectifiedFilter


@pytest.mark.parametrize("kept", [torch.tensor([True, False, True, True]), torch.tensor([2, 0, 2])])
@pytest.mark.parametrize("training", [True, False])
def test_some_channels_of_a_layer_are_what_they_were(kept: torch.Tensor, training: bool):
    for layer in (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1), nn.Linear(3, 4)):
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)
        layer.train(training)
        inputs = torch.randn(2, 4 if isinstance(layer, nn.BatchNorm2d) else 3, 5, 5)
        if isinstance(layer, nn.Linear):
            inputs = inputs[..., 0, 0]
        smaller = select_channels(layer, kept)
        own = inputs[:, kept] if isinstance(layer, nn.BatchNorm2d) else inputs
        assert smaller.training == training
        torch.testing.assert_close(smaller(own), layer(inputs)[:, kept])


def test_a_selection_shares_nothing_with_the_layer():
    layer = RectifiedFilter(4, stride=2).eval()
    smaller, images = select_channels(layer, torch.arange(4) > 1), torch.randn(1, 4, 6, 6)
    before = smaller(images[:, 2:])
    torch.testing.assert_close(before, layer(images)[:, 2:])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert torch.equal(smaller(images[:, 2:]), before)
