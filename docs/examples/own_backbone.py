"""A network of your own that answers `wiring()` and `compact()`: pictures and costs then work."""

from copy import deepcopy

import torch
from torch import Tensor, nn

import wiring_lightning as wl


class TwoRows(nn.Module):
    """Six branches of 8 channels, and six more that each read one of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.row1 = nn.Conv2d(1, 48, 3, padding=1)
        self.gates = nn.ModuleDict({"row2": wl.nn.Gate(6, 6, fan_in=1)})  # named as what it feeds
        self.row2 = nn.Conv2d(48, 48, 3, padding=1, groups=6)
        self.classifier = nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        """From images `[batch, 1, 8, 8]` to logits `[batch, 10]`."""
        inputs = self.gates["row2"](self.row1(images).relu().unflatten(1, (-1, 8)))
        return self.classifier(self.row2(inputs.flatten(1, 2)).relu().mean((2, 3)))

    def wiring(self) -> wl.Wiring:
        """Nodes in an order that data can flow in, and every edge that could be."""
        graph, left = wl.WiringBuilder(), self.row1.out_channels // 8
        image = graph.add_node("image")
        row1 = graph.add_group("row1.branch", left, (9 + 1) * 8, multiply_adds=9 * 8 * 64)
        row2 = graph.add_group("row2.branch", 6, (9 * 8 + 1) * 8, multiply_adds=9 * 8 * 8 * 64)
        graph.connect(image, row1)
        graph.choose(row1, row2, self.gates["row2"].choice())
        graph.add_layers("classifier", self.classifier, side=1, reads=row2)
        return graph.wiring()

    def compact(self) -> nn.Module:
        """The same function in evaluation mode, without the branches that nobody reads."""
        small, selection = deepcopy(self), self.gates["row2"].selection()
        read = selection.matrix.any(0)
        small.row1 = wl.nn.select_channels(self.row1, read.repeat_interleave(8))
        small.gates["row2"] = selection.keep(range(6), read.nonzero().flatten())
        return small.eval()


network, images = TwoRows().eval(), torch.randn(4, 1, 8, 8)
small = network.compact()
assert wl.costs.parameters(network.wiring()) == wl.wiring.count_parameters(small)
torch.testing.assert_close(small(images), network(images))
