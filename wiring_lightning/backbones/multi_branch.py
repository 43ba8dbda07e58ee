"""A stack of multi-branch modules with connections between them, learned or fixed."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import rectified_gated_sum
from wiring_lightning.nn import Branches, Gate, Selection
from wiring_lightning.nn.described import Described
from wiring_lightning.wiring import Wiring, WiringBuilder


class MultiBranchNetwork(Described):
    """Stem, modules of parallel branches, average pooling and a linear classifier.

    Args:
        stem: the first layers.
        blocks: the modules, in order. The last one merges its branches, and so does every module of
            a plain ResNeXt.
        connections: the connection before a module, by the module's name (`"module2"`); a module
            without one reads the merged output of the module before.
        classifier: the last layer.
        image_size: height and width of the images, for counting multiply-adds.
        reduction: the factor by which the stem divides height and width.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        blocks: Sequence[Branches],
        connections: Mapping[str, Gate | Selection],
        classifier: nn.Linear,
        image_size: int,
        reduction: int,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.reduction = reduction
        self.stem = stem
        self.blocks = nn.ModuleDict({_name(i): block for i, block in enumerate(blocks)})
        self.connections = nn.ModuleDict(dict(connections))
        self.classifier = classifier

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(images).unsqueeze(1)
        for name, block in self.blocks.items():
            if name in self.connections:
                branches, weights = state.flatten(2), self._connection(name).weights()
                state = rectified_gated_sum(weights, branches).unflatten(2, state.shape[2:])
            state = block(state)
            if block.merge:
                state = state.relu_()
        logits: Tensor = self.classifier(state.squeeze(1).mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Branches as nodes and possible connections as edges, active as in evaluation mode."""
        graph, side = WiringBuilder(), self.image_size
        previous = torch.tensor([graph.add_layers("stem", self.stem, side=side)])
        side = -(-side // self.reduction)  # padded layers round up
        for name, block in self._blocks():
            work, shared_work = block.multiply_adds(side)
            side = -(-side // block.stride)
            current = graph.add_group(
                f"{name}.branch",
                block.branches,
                block.branch_parameters,
                work,
                group_parameters=block.shared_parameters,
                group_multiply_adds=shared_work,
            )
            if name in self.connections:
                connection = self._connection(name)
                choice = connection.choice()
                # Scores also learn with K = C, where there is no choice.
                learns = isinstance(connection, Gate) and connection.mode != "random"
                graph.choose(previous, current, choice._replace(learnable=torch.tensor(learns)))
            else:
                graph.connect(previous, current[:, None])
            previous = current
        graph.add_layers("classifier", self.classifier, side=side, reads=previous)
        return graph.wiring()

    def compact(self) -> "MultiBranchNetwork":
        """The network in evaluation mode, without gates and unused branches."""
        wiring = self.wiring()
        live = wiring.live_nodes
        kept = [
            live[wiring.nodes.group == row].nonzero().flatten().tolist()
            for row in range(1, len(self.blocks) + 1)
        ]
        blocks = [block.keep(rows) for (_, block), rows in zip(self._blocks(), kept, strict=True)]
        connections = {}
        for (earlier, later), (name, _) in zip(
            pairwise(kept), list(self._blocks())[1:], strict=True
        ):
            if name in self.connections:
                connections[name] = self._connection(name).selection().keep(later, earlier)
        compacted = MultiBranchNetwork(
            deepcopy(self.stem), blocks, connections, deepcopy(self.classifier), self.image_size,
            self.reduction,
        )  # fmt: skip
        return compacted.eval()

    def _connection(self, name: str) -> Gate | Selection:
        connection = self.connections[name]
        assert isinstance(connection, Gate | Selection)
        return connection

    def _blocks(self) -> list[tuple[str, Branches]]:
        items = self.blocks.items()
        return [(name, block) for name, block in items if isinstance(block, Branches)]


def _name(index: int) -> str:
    return f"module{index + 1}"
