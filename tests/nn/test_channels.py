import pytest
import torch
from torch import nn

from wiring_lightning.nn import PointwiseConv2d, select_channels
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


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_whole_groups_of_a_convolution_read_their_inputs(dimensions: int):
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    layer = kind(6, 12, 3, groups=3)
    inputs = torch.randn(2, 6, *[5] * dimensions)
    for groups in ([0], [1], [2, 0], [0, 1, 2]):
        outputs, reads = ([size * g + i for g in groups for i in range(size)] for size in (4, 2))
        smaller = select_channels(layer, torch.tensor(outputs))
        sizes = smaller.in_channels, smaller.out_channels, smaller.groups
        assert sizes == (len(reads), len(outputs), len(groups))
        torch.testing.assert_close(smaller(inputs[:, reads]), layer(inputs)[:, outputs])


def test_depthwise_convolutions_read_the_channels_that_they_keep():
    kept = torch.tensor([True, False, False, True])
    layer, inputs = nn.Conv2d(4, 4, 3, groups=4), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(
        select_channels(layer, kept)(inputs[:, kept]), layer(inputs)[:, kept]
    )
    chain = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4), layer).eval()
    torch.testing.assert_close(select_channels(chain, kept)(inputs), chain(inputs)[:, kept])


@pytest.mark.parametrize("kept", [[0, 1, 2], [1, 2], [0, 2, 1, 3], [1, 0], [0, 0]])
def test_parts_of_groups_are_refused(kept: list[int]):
    for layer in (nn.Conv2d(4, 4, 1, groups=2), PointwiseConv2d(4, 4, groups=2)):
        with pytest.raises(ValueError, match="2 groups of 2 channels keeps whole groups only"):
            select_channels(layer, torch.tensor(kept))


def test_the_sizes_that_a_layer_says_are_its_own():
    kept = torch.arange(3)
    assert "out_features=3" in repr(select_channels(nn.Linear(2, 4), kept))
    assert "out_features=3" in repr(select_channels(nn.Bilinear(2, 5, 4), kept))
    assert "num_parameters=3" in repr(select_channels(nn.PReLU(4), kept))
    assert repr(select_channels(nn.InstanceNorm2d(4, affine=True), kept)).startswith(
        "InstanceNorm2d(3,"
    )


REFUSED = {
    "the channels of ConvTranspose2d cannot": nn.ConvTranspose2d(4, 4, 2),
    "the channels of ConvTranspose1d cannot": nn.Sequential(nn.ConvTranspose1d(4, 4, 2)),
    "the channels of GroupNorm cannot": nn.GroupNorm(2, 4),
    "of GroupNorm cannot": nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4, affine=False)),
    "the channels of LayerNorm cannot": nn.LayerNorm(4),
    "the channels of LSTM cannot": nn.LSTM(4, 1),
    "the channels of Embedding cannot": nn.Embedding(4, 4),
    "the channels of MultiheadAttention cannot": nn.MultiheadAttention(4, 2),
    "its Conv2d reads those of another": nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
    "its Linear reads those of another": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)),
    "0.weight has 4 and 1.weight has 3": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3)),
    "Linear has no weights yet": nn.LazyLinear(4),
    "Conv2d has no weights: weight is on the device meta": nn.Conv2d(4, 4, 1, device="meta"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_layers_whose_channels_cannot_be_selected_are_refused(message: str):
    with pytest.raises(ValueError, match=message):
        select_channels(REFUSED[message], torch.arange(2))
