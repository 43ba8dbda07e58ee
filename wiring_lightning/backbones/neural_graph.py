"""The tiny neural graphs of Discovering Neural Wirings: every channel is a node."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.backbones.graph_columns import GraphColumns
from wiring_lightning.backbones.wiring_columns import count_parameters
from wiring_lightning.nn import Adjacency, AdjacencyMode, NodeOperations, SparseEdges
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.graph_dynamics import run_blocks, run_continuously, run_steps
from wiring_lightning.nn.node_operations import FILTER_TAPS
from wiring_lightning.wiring import Wiring

Dynamics = Literal["static", "discrete", "continuous"]

_STEM_WIDTH = 16


class NeuralGraph(Described):
    """A tiny classifier whose channels are the nodes of one graph (DNW, Section 3.1, Table 1).

    Two strided convolutions reduce the image, and each of their channels is the input of a node. A
    node works on one channel: instance norm, ReLU and a 3 x 3 filter. Edges are single weights, the
    k largest of all that could be (`nn.Adjacency`); `callbacks.DNW` learns them. The classifier
    reads the last nodes.

    - `"static"`: blocks of nodes, and edges lead to later blocks. The last block also sends to the
      output nodes, which are its own last ones.
    - `"discrete"`: edges from any node to any node; `depth` steps with the same weights. A node
      rectifies and filters its state, and normalises what it receives.
    - `"continuous"`: the same function is the derivative of the states, from time 0 to 1.

    The classifier sees the mean of a patch of each output map, the second quarter of its rows and
    of its columns (2 x 2 of 8 x 8). The mean of a whole map would say nothing in a dynamic graph:
    instance norm makes it the same for all images.

    Args:
        dynamics: how signals run through the graph, see above.
        num_classes: number of classes.
        wiring: `"learned"`, or `"random"` for k random edges that stay (the paper's RG).
        nodes: number of nodes.
        inputs: number of input nodes, which are the first.
        outputs: number of output nodes, which are the last.
        depth: number of blocks of a static graph (the input nodes, and equal shares of the others),
            or of steps in discrete time; not used in continuous time.
        edges: k, the number of edges.
        rank_all: let weights that can never be an edge compete for k with the others, as the
            authors of DNW do. In the static graph they take 59 % of k at first.
        tolerance: of the solver in continuous time, relative and absolute.
        adjoint: in continuous time, get gradients from a second solution backwards in time: memory
            does not grow with the number of evaluations, but gradients have the solver's error.
        in_channels: channels of the images.
        strides: of the two convolutions in front of the graph; `[1, 1]` suits images of 8 x 8.
        image_size: height and width of the images, used only to count multiply-adds.

    Raises:
        ValueError: if the nodes are too few for the inputs, outputs and blocks, an argument is not
            as above, or images are so small that a map has one pixel.

    Example:
        >>> network = NeuralGraph()
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring(), live=False))  # the paper's 41k, 1,600 of norms
        43058
    """

    def __init__(
        self,
        dynamics: Dynamics = "static",
        num_classes: int = 10,
        wiring: AdjacencyMode = "learned",
        nodes: int = 800,
        inputs: int = 32,
        outputs: int = 100,
        depth: int = 5,
        edges: int = 32_000,
        rank_all: bool = False,
        tolerance: float = 1e-3,
        adjoint: bool = False,
        in_channels: int = 3,
        strides: Sequence[int] = (2, 2),
        image_size: int = 32,
    ) -> None:
        super().__init__()
        if dynamics not in ("static", "discrete", "continuous"):
            raise ValueError(
                f'dynamics must be "static", "discrete" or "continuous", got "{dynamics}".'
            )
        if not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance}.")
        if len(strides) != 2 or min(strides) < 1:
            raise ValueError(f"strides must be two numbers of at least 1, got {list(strides)}.")
        self.describe(
            dynamics=dynamics, wiring=wiring, nodes=nodes, inputs=inputs, outputs=outputs,
            edges=edges, rank_all=rank_all, strides=strides,
            depth=None if dynamics == "continuous" else depth,
        )  # fmt: skip
        self.dynamics = dynamics
        self.sizes = _group_sizes(dynamics, nodes, inputs, outputs, depth)
        self.outputs = outputs
        self.depth = depth
        self.tolerance = tolerance
        self.adjoint = adjoint
        self.image_size = image_size
        self.stem = Stem(in_channels, inputs, strides)
        self.operations = NodeOperations(nodes)
        self.graph: Adjacency | SparseEdges = Adjacency(self._usable(), edges, wiring, rank_all)
        self.classifier = nn.Linear(outputs, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        inputs = self.stem(images).transpose(0, 1).contiguous()
        height, width = inputs.shape[2:]
        if height * width < 2:
            raise ValueError(
                f"images of {images.shape[2]} x {images.shape[3]} leave maps of one pixel, which "
                "instance norm makes constant: use larger images or smaller strides."
            )
        maps = self._run(inputs, _dense(self.graph))
        patch = maps[:, :, _second_quarter(height), _second_quarter(width)]
        logits: Tensor = self.classifier(patch.mean((2, 3)).t())
        return logits

    def _run(self, inputs: Tensor, weights: Tensor) -> Tensor:
        if self.dynamics == "static":
            return run_blocks(inputs, weights, self.operations, self.sizes, self.outputs)
        if self.dynamics == "discrete":
            return run_steps(inputs, weights, self.operations, self.depth, self.outputs)
        return run_continuously(
            inputs, weights, self.operations, self.outputs, self.tolerance, self.adjoint
        )

    @torch.no_grad()
    def wiring(self) -> Wiring:
        """Channels as nodes, and single weights as edges.

        Edges are listed if their weight is not zero (`Wiring.unlisted` counts the others); those of
        `rank_all` that can carry nothing are listed, but never active. In a static graph the output
        nodes appear twice: as senders in the last block, and as `"outputs"`, with all they receive.
        A node that no input reaches still sends something, which its norm's shift makes of nothing;
        it gets an edge from the stem.

        Multiply-adds are those of one image: in discrete time of all steps, as far as they are
        computed; in continuous time of one evaluation of the derivative.
        """
        matrix, usable = _dense(self.graph).cpu(), self._usable()
        receivers, senders = matrix.nonzero().unbind(1)
        carries = usable[receivers, senders]
        columns, head = GraphColumns(), self.classifier
        area, work = self.stem.multiply_adds(self.image_size)
        stem = columns.add("stem", self.stem.shared_parameters, work)
        groups: list[Tensor] = []
        for name, size in self._groups():
            later = bool(groups)
            width = 0 if later else self.stem.pointwise.in_channels  # of the stem's last layer
            uses = self.depth - later if self.dynamics == "discrete" else 1
            groups.append(
                columns.add_group(
                    name,
                    size,
                    self.operations.parameters_per_node + (0 if later else width + 3),
                    area * (uses * FILTER_TAPS + width),
                )
            )
        nodes = torch.cat(groups)
        targets, outputs = nodes[receivers], nodes[-self.outputs :]
        inside = carries  # edges between nodes, without those into the last sums of the outputs
        if self.dynamics == "static":
            sums = columns.add_group("outputs", self.outputs, steps=0)
            from_last = carries & (nodes[senders] >= groups[-1][0])
            targets = torch.where(from_last, targets + self.outputs, targets)
            inside = carries & ~from_last
        classifier = columns.add("classifier", count_parameters(head), head.weight.numel())
        columns.connect(
            nodes[senders],
            targets,
            carries,
            score=matrix[receivers, senders].abs(),
            learnable=self._learned,
            parameters=1,
            multiply_adds=area * self._uses(receivers, senders) * carries,
        )
        if self.dynamics == "static":
            columns.connect(outputs, sums)
            outputs = sums
        columns.connect(outputs, classifier)
        inputs = torch.arange(len(nodes)) < self.sizes[0]
        alone = ~_reached(inputs, receivers[inside], senders[inside])
        columns.connect(stem, nodes[inputs | alone])
        return columns.wiring(unlisted=int(usable.sum() - carries.sum()))

    @torch.no_grad()
    def compact(self) -> "NeuralGraph":
        """The same network in evaluation mode, without nodes and edges that lead nowhere.

        In continuous time the solver chooses its steps by all states, so fewer nodes change the
        result by about its tolerance.
        """
        wiring, nodes = self.wiring(), sum(self.sizes)
        live = wiring.live_nodes[1 : nodes + 1]
        matrix = _dense(self.graph).cpu()
        receivers, senders = matrix.nonzero().unbind(1)
        kept = wiring.live_edges[: len(receivers)]
        place = live.cumsum(0) - 1
        small = deepcopy(self)
        count = int(live.sum())
        small.graph = SparseEdges(
            place[receivers[kept]],
            place[senders[kept]],
            matrix[receivers[kept], senders[kept]],
            count,
            count,
            self._learned,
        ).to(self.classifier.weight.device)
        small.operations.keep(live)
        small.stem.keep(live[: self.sizes[0]])
        small.sizes = tuple(int(part.sum()) for part in live.split(self.sizes))
        return small.eval()

    def _groups(self) -> list[tuple[str, int]]:
        """Names and sizes of the groups of nodes."""
        names = ["inputs", "hidden", "outputs"]
        if self.dynamics == "static":
            names = [f"block{block + 1}" for block in range(len(self.sizes))]
        return list(zip(names, self.sizes, strict=True))

    def _uses(self, receivers: Tensor, senders: Tensor) -> Tensor:
        """How often an image needs each of some edges."""
        if self.dynamics != "discrete":
            return torch.ones_like(senders)
        # All but the inputs send nothing in the first step, and the last is for the outputs only.
        silent = (senders >= self.sizes[0]).long()
        ignored = (receivers < sum(self.sizes) - self.outputs).long()
        return (self.depth - silent - ignored).clamp_min(0)

    @property
    def _learned(self) -> bool:
        graph = self.graph
        return graph.mode == "learned" if isinstance(graph, Adjacency) else graph.learned

    def _usable(self) -> Tensor:
        """`[receivers, senders]` which weights can carry something."""
        nodes = sum(self.sizes)
        if self.dynamics != "static":
            return torch.ones(nodes, nodes, dtype=torch.bool)
        block = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))
        usable = block[:, None] > block
        usable[-self.outputs :, block == len(self.sizes) - 1] = True
        return usable


class Stem(nn.Module):
    """A 3 x 3 convolution and a depthwise-separable one, both strided (DNW, footnote 3).

    Args:
        in_channels: channels of the images.
        out_channels: channels after it.
        strides: of the two.
    """

    def __init__(self, in_channels: int, out_channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        width = _STEM_WIDTH
        self.conv = nn.Conv2d(in_channels, width, 3, strides[0], padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, strides[1], padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, out_channels, 1)
        self.out_norm = nn.BatchNorm2d(out_channels)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, in_channels, height, width]` -> `[batch, out_channels, ...]`, smaller."""
        hidden = functional.relu(self.norm(self.conv(images)), inplace=True)
        hidden = self.depthwise(hidden)
        if self.pointwise.out_channels == 0:  # compacted, and no input node was read
            return hidden[:, :0]
        maps: Tensor = self.out_norm(self.pointwise(hidden))
        return maps

    @property
    def shared_parameters(self) -> int:
        """Parameters of all but the last convolution, whose channels belong to the input nodes."""
        return count_parameters(self.conv, self.norm, self.depthwise)

    def multiply_adds(self, image_size: int) -> tuple[int, int]:
        """Pixels of a map after the stem, and multiply-adds of all but its last convolution."""
        side = -(-image_size // self.conv.stride[0])
        area = (-(-side // self.depthwise.stride[0])) ** 2
        return area, self.conv.weight.numel() * side**2 + self.depthwise.weight.numel() * area

    @torch.no_grad()
    def keep(self, channels: Tensor) -> None:
        """Remove all channels of the output but some, given by a mask."""
        for layer in (self.pointwise, self.out_norm):
            for name, value in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(value[channels].clone()))
        for name in ("running_mean", "running_var"):
            setattr(self.out_norm, name, getattr(self.out_norm, name)[channels])
        self.pointwise.out_channels = self.out_norm.num_features = int(channels.sum())


def _dense(edges: Adjacency | SparseEdges) -> Tensor:
    """`[receivers, senders]` the weights, and zeros where there is no edge."""
    if isinstance(edges, Adjacency):
        return edges.matrix()
    empty = edges.values.new_zeros(edges.receivers, edges.senders)
    return empty.index_put((edges.row, edges.column), edges.values)


def _reached(inputs: Tensor, receivers: Tensor, senders: Tensor) -> Tensor:
    """`[nodes]` which nodes are inputs, or edges lead to from the inputs."""
    reached, count = inputs.clone(), -1
    while count != (count := int(reached.sum())):
        reached[receivers[reached[senders]]] = True
    return reached


def _group_sizes(
    dynamics: Dynamics, nodes: int, inputs: int, outputs: int, depth: int
) -> tuple[int, ...]:
    """Nodes of every block, or of inputs, hidden nodes and outputs where there are no blocks."""
    if min(inputs, outputs) < 1 or inputs + outputs > nodes:
        raise ValueError(
            f"a graph needs at least one input and one output node, and no node can be both, got "
            f"{nodes} nodes, {inputs} inputs and {outputs} outputs."
        )
    if dynamics != "static":
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        return inputs, nodes - inputs - outputs, outputs
    if depth < 2:
        raise ValueError(f"a static graph has at least 2 blocks (depth), got {depth}.")
    share, left = divmod(nodes - inputs, depth - 1)
    sizes = (inputs, *(share + (number < left) for number in range(depth - 1)))
    if outputs > sizes[-1]:
        raise ValueError(
            f"the {outputs} output nodes must fit into the last of {depth} blocks, which has "
            f"{sizes[-1]} nodes; use more nodes or fewer blocks."
        )
    return sizes


def _second_quarter(length: int) -> slice:
    """Of the rows or columns of a map; at least one of them."""
    return slice(length // 4, max(length // 2, length // 4 + 1))
