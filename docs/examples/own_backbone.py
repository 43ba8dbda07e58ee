"""A network of your own that answers `wiring()` and `compact()`: pictures and costs then work."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from wiring_lightning import costs
from wiring_lightning.nn import Gate, Selection
from wiring_lightning.wiring import Wiring, find_wired, make_wiring

BRANCHES, CHANNELS, SIZE = 8, 8, 8


class TwoRows(nn.Module):
    """Eight convolutions, and eight more that each read one of the first."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.row1 = nn.Conv2d(1, BRANCHES * CHANNELS, 3, padding=1)
        # Called like the row that it feeds, so that WiringMonitor counts that row's live branches.
        self.gates = nn.ModuleDict({"row2": Gate(BRANCHES, BRANCHES, fan_in=1)})
        self.row2 = nn.Conv2d(
            BRANCHES * CHANNELS, BRANCHES * CHANNELS, 3, padding=1, groups=BRANCHES
        )
        self.classifier = nn.Linear(BRANCHES * CHANNELS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """From images `[batch, 1, 8, 8]` to logits."""
        sources = self.row1(images).relu().unflatten(1, (BRANCHES, CHANNELS))
        inputs = self.gates["row2"](sources).flatten(1, 2)
        return self.classifier(self.row2(inputs).relu().mean((2, 3)))

    def wiring(self) -> Wiring:
        """Nodes in an order that data can flow in, and every edge that could be."""
        gate = self.gates["row2"]
        row1, row2 = range(1, 1 + BRANCHES), range(1 + BRANCHES, 1 + 2 * BRANCHES)
        output = 1 + 2 * BRANCHES
        edges = [(0, source, True, 1.0, False) for source in row1]
        for target, best, scores in zip(row2, gate.best, gate.scores, strict=True):
            columns = zip(row1, best.tolist(), scores.tolist(), strict=True)
            edges += [(source, target, active, score, True) for source, active, score in columns]
        edges += [(source, output, True, 1.0, False) for source in row2]
        source, target, active, score, learnable = map(list, zip(*edges, strict=True))
        fan_in, area = 9 * CHANNELS, SIZE * SIZE
        return make_wiring(
            ["image"]
            + [f"row1.branch{i}" for i in range(BRANCHES)]
            + [f"row2.branch{i}" for i in range(BRANCHES)]
            + ["classifier"],
            source,
            target,
            active,
            score=score,
            learnable=learnable,
            group=[0] + [1] * BRANCHES + [2] * BRANCHES + [3],
            parameters=[0]
            + [(9 + 1) * CHANNELS] * BRANCHES
            + [(fan_in + 1) * CHANNELS] * BRANCHES
            + [sum(parameter.numel() for parameter in self.classifier.parameters())],
            multiply_adds=[0]
            + [9 * CHANNELS * area] * BRANCHES
            + [fan_in * CHANNELS * area] * BRANCHES
            + [self.classifier.weight.numel()],
        )

    def compact(self) -> nn.Module:
        """The same function in evaluation mode, without the branches that nobody reads."""
        gate = self.gates["row2"]
        read = gate.best.any(0)
        channels = read.repeat_interleave(CHANNELS)
        row1 = nn.Conv2d(1, int(channels.sum()), 3, padding=1)
        row1.weight.data = self.row1.weight.detach()[channels]
        row1.bias.data = self.row1.bias.detach()[channels]
        return nn.Sequential(
            row1,
            nn.ReLU(),
            nn.Unflatten(1, (-1, CHANNELS)),
            Selection(gate.best.float()[:, read], gate.scores[:, read]),
            nn.Flatten(1, 2),
            deepcopy(self.row2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            deepcopy(self.classifier),
        ).eval()


torch.manual_seed(0)
network = TwoRows().eval()
network.gates["row2"].scores.data.uniform_()  # stands for training
assert find_wired(network) is network
wiring, small, images = network.wiring(), network.compact(), torch.randn(4, 1, SIZE, SIZE)
before, after = int(costs.parameters(wiring, live=False)), int(costs.parameters(wiring))
print(f"{before} parameters, {after} on a path from the input to the output")
assert after == sum(parameter.numel() for parameter in small.parameters())
torch.testing.assert_close(small(images), network(images))
