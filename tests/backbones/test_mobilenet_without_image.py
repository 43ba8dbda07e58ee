"""A MobileNetV1-DNW in which no signal of the image arrives at the classifier."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.backbones.test_mobilenet_dnw import scramble
from wiring_lightning import costs
from wiring_lightning.backbones import MobileNetV1DNW
from wiring_lightning.nn import Adjacency


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(
    ("small", "without"),
    [(False, ["graph1"]), (False, ["graph2"]), (False, ["graph5"]), (True, ["graph2"]),
     (True, ["classifier"]), (True, ["graph4", "classifier"])],
)  # fmt: skip
def test_compact_is_the_same_function_if_the_image_does_not_arrive(
    small: bool, without: list[str], stem: Any
) -> None:
    torch.manual_seed(0)
    network = MobileNetV1DNW(
        width=0.4, stem_channels=2, image_size=9, small=small, stem=stem
    ).eval()
    scramble(network)
    for name, graph in network.named_modules():
        if isinstance(graph, Adjacency) and any(part in name for part in without):
            graph.weight.data.zero_()
    images, wiring = torch.randn(3, 3, 9, 9), network.wiring()
    for fold in (False, True):
        compacted = network.compact(fold_batch_norm=fold)
        assert isinstance(compacted.stem, nn.Conv2d)
        assert compacted.stem.out_channels == 0
        for given in (images, images[:1], images.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(compacted(given), network(given))
        torch.testing.assert_close(compacted.compact()(images), network(images))
        stored = sum(p.numel() for p in compacted.parameters())
        assert stored == int(costs.parameters(compacted.wiring()))
        assert costs.multiply_adds(compacted.wiring()) == costs.multiply_adds(wiring)
        assert fold or stored == int(costs.parameters(wiring))
