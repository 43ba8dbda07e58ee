"""A stack of multi-branch modules with connections between them, learned or fixed."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.backbones.wiring_columns import count_parameters
from wiring_lightning.functional import rectified_gated_sum
from wiring_lightning.nn import Branches, Gate, Selection
from wiring_lightning.nn.described import Described
from wiring_lightning.wiring import Wiring, make_wiring


class MultiBranchNetwork(Described):
    """Stem, modules of parallel branches, average pooling and a linear classifier.

    Between two modules stands a connection (a `Gate` or a `Selection`), unless the earlier one
    merges its branches, as the modules of a plain ResNeXt and every last module do.

    Args:
        stem: the first layers.
        blocks: the modules, in order.
        connections: what feeds a module, by the module's name (`"module2"`); a module without a
            connection reads the merged output of the one before.
        classifier: the last layer.
        image_size: height and width of the images, for counting multiply-adds.
        reduction: by how much the stem divides height and width.
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
                state = _connect(self.connections[name], state)
            state = block(state)
            if block.merge:
                state = state.relu_()
        logits: Tensor = self.classifier(state.squeeze(1).mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Branches as nodes and possible connections as edges, as used in evaluation mode."""
        names, group, parameters, multiply_adds = ["stem"], [0], [count_parameters(self.stem)], [0]
        group_parameters, group_multiply_adds = [0], [0]
        size = -(-self.image_size // self._stem_stride)  # padded layers round up
        stem_conv = self.stem[0]
        assert isinstance(stem_conv, nn.Conv2d)
        multiply_adds[0] = stem_conv.weight.numel() * size * size
        size = -(-size // (self.reduction // self._stem_stride))
        edges = _Edges()
        previous = [0]
        for row, (name, block) in enumerate(self._blocks(), start=1):
            branch_cost, shared_cost = block.multiply_adds(size, size)
            size = -(-size // block.stride)
            group_parameters.append(block.shared_parameters)
            group_multiply_adds.append(shared_cost)
            current = list(range(len(names), len(names) + block.branches))
            names += [f"{name}.branch{j}" for j in range(block.branches)]
            group += [row] * block.branches
            parameters += [block.branch_parameters] * block.branches
            multiply_adds += [branch_cost] * block.branches
            connection = self.connections[name] if name in self.connections else None  # noqa: SIM401
            edges.connect(previous, current, connection)
            previous = current
        output = len(names)
        names.append("classifier")
        group.append(len(group_parameters))
        parameters.append(count_parameters(self.classifier))
        multiply_adds.append(self.classifier.weight.numel())
        edges.connect(previous, [output], None)
        return make_wiring(
            names,
            edges.source,
            edges.target,
            edges.active,
            score=edges.score,
            learnable=edges.learnable,
            group=group,
            parameters=parameters,
            multiply_adds=multiply_adds,
            group_parameters=[*group_parameters, 0],
            group_multiply_adds=[*group_multiply_adds, 0],
        )

    def compact(self) -> "MultiBranchNetwork":
        """The same function in evaluation mode, without unused branches and without gates."""
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
                connections[name] = _selection(self.connections[name]).keep(later, earlier)
        compacted = MultiBranchNetwork(
            deepcopy(self.stem), blocks, connections, deepcopy(self.classifier), self.image_size,
            self.reduction,
        )  # fmt: skip
        return compacted.eval()

    def _blocks(self) -> list[tuple[str, Branches]]:
        blocks = list(self.blocks.items())
        return [(name, block) for name, block in blocks if isinstance(block, Branches)]

    @property
    def _stem_stride(self) -> int:
        stem_conv = self.stem[0]
        assert isinstance(stem_conv, nn.Conv2d)
        return int(stem_conv.stride[0])


class _Edges:
    """Edge columns under construction."""

    def __init__(self) -> None:
        self.source: list[int] = []
        self.target: list[int] = []
        self.active: list[bool] = []
        self.score: list[float] = []
        self.learnable: list[bool] = []

    def connect(self, sources: list[int], targets: list[int], connection: nn.Module | None) -> None:
        """Add every edge from the sources to the targets; without a connection all are active."""
        count = len(sources) * len(targets)
        self.source += sources * len(targets)
        self.target += [target for target in targets for _ in sources]
        if connection is None:
            self.active += [True] * count
            self.score += [1.0] * count
            self.learnable += [False] * count
            return
        selection = _selection(connection)
        active = connection.best if isinstance(connection, Gate) else selection.matrix != 0
        self.active += active.flatten().tolist()
        self.score += selection.score.flatten().tolist()
        learnable = isinstance(connection, Gate) and connection.mode != "random"
        self.learnable += [learnable] * count


def _selection(connection: nn.Module) -> Selection:
    """The connection as evaluation mode uses it."""
    if isinstance(connection, Selection):
        return connection
    assert isinstance(connection, Gate)
    return connection.selection()


def _connect(connection: nn.Module, branches: Tensor) -> Tensor:
    """`[batch, branches, channels, height, width]` -> the same shape of inputs, rectified."""
    assert isinstance(connection, Gate | Selection)
    inputs = rectified_gated_sum(connection.weights(), branches.flatten(2))
    return inputs.unflatten(2, branches.shape[2:])


def _name(index: int) -> str:
    return f"module{index + 1}"
