"""The tiny neural graphs of Discovering Neural Wirings: every channel is a node."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning._checks import MOST_LAYERS, check_counts, check_number
from wiring_lightning._names.renamed import renamed_attribute
from wiring_lightning.nn import (
    Adjacency,
    AdjacencyMode,
    NodeOperations,
    SparseEdges,
    select_channels,
)
from wiring_lightning.nn.checks import check_word
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms, fold_pair
from wiring_lightning.nn.graph_dynamics import run_blocks, run_continuously, run_steps
from wiring_lightning.nn.graph_edges import edges_of
from wiring_lightning.nn.node_operations import FILTER_TAPS
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.wiring import Wiring, WiringBuilder
from wiring_lightning.wiring.live import reach

Dynamics = Literal["static", "discrete", "continuous"]

_STEM_WIDTH = 16


class NeuralGraph(Described):
    """A tiny classifier whose channels are the nodes of one graph (DNW, Section 3.1, Table 1).

    Two strided convolutions reduce the image; each of their channels is the input of a node. A node
    has one channel, and applies instance norm, ReLU and a 3 x 3 filter. Edges are the k largest
    usable weights (`nn.Adjacency`); `callbacks.DNW` learns them. The classifier reads the last
    nodes.

    - `"static"`: blocks of nodes with edges to later blocks. The last block also sends to its own
      output nodes.
    - `"discrete"`: edges from any node to any node; `depth` steps with the same weights. A node
      rectifies and filters its state, and normalises what it receives.
    - `"continuous"`: the same function is the derivative of the states, from time 0 to 1.

    The classifier reads the mean of a patch of each output map: the second quarter of its rows and
    columns (2 x 2 of 8 x 8). In a dynamic graph, instance norm makes the mean of a whole map the
    same for all images.

    Args:
        dynamics: `"static"`, `"discrete"` or `"continuous"`, see above.
        num_classes: number of classes.
        wiring: `"learned"`, or `"random"` for k random edges that stay (the paper's RG).
        nodes: number of nodes.
        inputs: number of input nodes, which are the first.
        outputs: number of output nodes, which are the last.
        depth: number of blocks of a static graph (the input nodes, and equal shares of the others),
            or of steps in discrete time; not used in continuous time.
        edges: k, the number of edges.
        rank_all: rank the weights that are not usable, too, as the authors of DNW do. In the static
            graph they take 59 % of k at first.
        tolerance: of the solver in continuous time, relative and absolute.
        adjoint: in continuous time, compute gradients by a second solution backwards in time.
            Memory then does not grow with the number of evaluations, but gradients have the
            solver's error.
        in_channels: channels of the images.
        strides: of the two convolutions before the graph; `[1, 1]` suits images of 8 x 8.
        image_size: height and width of the images, used only to count multiply-adds.
        rectify_states: in continuous time, rectify the states of the solver wherever it computes a
            derivative, as a ReLU in place does in the authors' code; the paper does not ask for it.
            The result is another function, and depends on the solver's steps: on the other images
            of the batch, and on what `compact()` removes. `tolerance` does not bound by how much.
            Not with `adjoint`.

    Raises:
        ValueError: if the nodes are too few for the inputs, outputs and blocks, or an argument is
            not as above.

    Example:
        >>> network = NeuralGraph()
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring(), live=False))  # the paper's 41k, 1,600 of norms
        43058
    """

    # A child called `graph` hides the graph of the program that `torch.export` makes.
    former_names: ClassVar[Mapping[str, str]] = MappingProxyType({"adjacency": "graph"})
    graph: Any = renamed_attribute("graph", "adjacency", gone_in="0.2.0")

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
        rectify_states: bool = False,
    ) -> None:
        self.record(locals())
        super().__init__()
        self.describe(
            dynamics=dynamics, wiring=wiring, nodes=nodes, inputs=inputs, outputs=outputs,
            edges=edges, rank_all=rank_all, strides=strides,
            depth=None if dynamics == "continuous" else depth,
            rectify_states=rectify_states or None,
        )  # fmt: skip
        check_word("dynamics", dynamics, Dynamics)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_counts(most=MOST_LAYERS, nodes=nodes, depth=depth)
        check_number("tolerance", tolerance, above=0)
        if len(strides) != 2 or not 1 <= min(strides) <= max(strides) <= image_size:
            raise ValueError(
                f"strides must be two numbers of at least 1, and not above the image_size of "
                f"{image_size}, got {list(strides)}."
            )
        self.dynamics = dynamics
        self.sizes = _group_sizes(dynamics, nodes, inputs, outputs, depth)
        self.outputs = outputs
        self.depth = depth
        self.tolerance = tolerance
        self.adjoint = adjoint
        self.rectify_states = rectify_states
        if rectify_states and (adjoint or dynamics != "continuous"):
            raise ValueError(
                "rectify_states is for dynamics continuous without adjoint: the solution backwards "
                "in time needs the states as they were."
            )
        self.image_size = image_size
        self.stem = Stem(in_channels, inputs, strides)
        self.operations = NodeOperations(nodes)
        self.adjacency: Adjacency | SparseEdges = Adjacency(self._usable(), edges, wiring, rank_all)
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
        maps = self._run(inputs, self.adjacency.matrix())
        patch = maps[:, :, _second_quarter(height), _second_quarter(width)]
        logits: Tensor = self.classifier(patch.mean((2, 3)).t())
        return logits

    def _run(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """`[outputs, batch, height, width]` what the output nodes give for these inputs."""
        if self.dynamics == "static":
            return run_blocks(inputs, weights, self.operations, self.sizes, self.outputs)
        if self.dynamics == "discrete":
            return run_steps(inputs, weights, self.operations, self.depth, self.outputs)
        return run_continuously(
            inputs,
            weights,
            self.operations,
            self.outputs,
            self.tolerance,
            self.adjoint,
            self.rectify_states,
        )

    @torch.no_grad()
    def wiring(self) -> Wiring:
        """Channels as nodes, and nonzero weights as edges (`Wiring.unlisted` counts the others).

        Edges of `rank_all` that carry nothing are listed, but not active. In a static graph the
        output nodes appear twice: as senders in the last block, and as `"outputs"` with all they
        receive. A node that no input reaches still sends a constant, since its norm shifts zero; it
        gets an edge from the stem.

        Multiply-adds are those of one image: of all steps in discrete time, of one evaluation of
        the derivative in continuous time.
        """
        edges, slots = edges_of(self.adjacency, 0), self._usable()
        receivers, senders = edges.target, edges.source
        usable = slots[receivers, senders]
        graph, layers = WiringBuilder(), self.stem
        first = (layers.conv, layers.norm, layers.depthwise)  # `pointwise` belongs to the inputs
        stem = graph.add_layers("stem", *first, side=self.image_size)
        side = -(-self.image_size // layers.conv.stride[0])
        area = (-(-side // layers.depthwise.stride[0])) ** 2
        groups: list[Tensor] = []
        for name, size in self._groups():
            later = bool(groups)
            width = 0 if later else layers.pointwise.in_channels
            uses = self.depth - later if self.dynamics == "discrete" else 1
            parameters = FILTER_TAPS + 2  # a filter, scale and shift
            if not later:  # and its part of the stem: weights, a bias, and those of the norm
                parameters += width + (1 if isinstance(layers.out_norm, nn.Identity) else 3)
            work = area * (uses * FILTER_TAPS + width)
            groups.append(graph.add_group(f"{name}.node", size, parameters, work))
        nodes = torch.cat(groups)
        targets, outputs = nodes[receivers], nodes[-self.outputs :]
        inside = usable  # without the edges into the sums of the outputs
        if self.dynamics == "static":
            sums = graph.add_group("outputs.node", self.outputs, steps=0)
            from_last = usable & (nodes[senders] >= groups[-1][0])
            targets = torch.where(from_last, targets + self.outputs, targets)
            inside = usable & ~from_last
        classifier = graph.add_layers("classifier", self.classifier, side=1)
        graph.connect(
            nodes[senders],
            targets,
            active=usable,
            score=edges.weight.abs(),
            learnable=edges.learned,
            parameters=1,
            multiply_adds=area * self._uses(receivers, senders) * usable,
        )
        if self.dynamics == "static":
            graph.connect(outputs, sums)
            outputs = sums
        graph.connect(outputs, classifier)
        inputs = torch.arange(len(nodes), device="cpu") < self.sizes[0]
        alone = ~reach(inputs.clone(), senders[inside], receivers[inside])
        graph.connect(stem, nodes[inputs | alone])
        return graph.wiring(unlisted=int(slots.sum() - usable.sum()))

    @torch.no_grad()
    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "NeuralGraph":
        """The network in evaluation mode, without dead nodes and edges.

        In continuous time all states decide the steps of the solver, so fewer nodes change the
        result by about its tolerance; with `rectify_states` by more.

        Args:
            fold_batch_norm: fold the batch norms of the stem into its convolutions, for inference
                only.
        """
        wiring, edges = self.wiring(), edges_of(self.adjacency, 0)
        live = wiring.live_nodes[1 : sum(self.sizes) + 1]
        edges = edges.select(wiring.live_edges[: len(edges.source)])
        number, count = live.cumsum(0) - 1, int(live.sum())
        columns = number[edges.target], number[edges.source], edges.weight
        small = deepcopy(self)
        device = next(self.adjacency.parameters()).device
        small.adjacency = SparseEdges(*columns, count, count, edges.learned).to(device)
        small.operations = select_channels(self.operations, live)
        inputs = live[: self.sizes[0]]
        small.stem.pointwise = select_channels(self.stem.pointwise, inputs)
        small.stem.out_norm = select_channels(self.stem.out_norm, inputs)
        small.sizes = tuple(int(part.sum()) for part in live.split(self.sizes))
        return fold_batch_norms(small.eval()) if fold_batch_norm else small.eval()

    def _groups(self) -> list[tuple[str, int]]:
        """Names and sizes of the groups of nodes."""
        names = ["inputs", "hidden", "outputs"]
        if self.dynamics == "static":
            names = [f"block{block + 1}" for block in range(len(self.sizes))]
        return list(zip(names, self.sizes, strict=True))

    def _uses(self, receivers: Tensor, senders: Tensor) -> Tensor:
        """How often the forward pass uses each edge."""
        if self.dynamics != "discrete":
            return torch.ones_like(senders)
        # Only inputs send in the first step, and only outputs receive in the last one.
        silent = (senders >= self.sizes[0]).long()
        ignored = (receivers < sum(self.sizes) - self.outputs).long()
        return (self.depth - silent - ignored).clamp_min(0)

    def _usable(self) -> Tensor:
        """`[receivers, senders]` which weights can be an edge."""
        nodes = sum(self.sizes)
        if self.dynamics != "static":
            return torch.ones(nodes, nodes, dtype=torch.bool, device="cpu")
        counts = torch.tensor(self.sizes, device="cpu")
        block = torch.arange(len(self.sizes), device="cpu").repeat_interleave(counts)
        usable = block[:, None] > block
        usable[-self.outputs :, block == len(self.sizes) - 1] = True
        return usable


class Stem(nn.Module):
    """A 3 x 3 convolution and a depthwise-separable one, both strided (DNW, footnote 3)."""

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
        if self.pointwise.out_channels == 0:  # compacted, and no input node was live
            return hidden[:, :0]
        maps: Tensor = self.out_norm(self.pointwise(hidden))
        return maps

    def fold_batch_norm(self) -> None:
        """Fold both norms into the convolutions before them, for inference."""
        self.conv, self.norm = fold_pair(self.conv, self.norm)
        self.pointwise, self.out_norm = fold_pair(self.pointwise, self.out_norm)


def _group_sizes(
    dynamics: Dynamics, nodes: int, inputs: int, outputs: int, depth: int
) -> tuple[int, ...]:
    """Numbers of nodes: of every block, or of inputs, hidden nodes and outputs."""
    if min(inputs, outputs) < 1 or inputs + outputs > nodes:
        raise ValueError(
            f"a graph needs at least one input and one output node, and no node can be both, got "
            f"{nodes} nodes, {inputs} inputs and {outputs} outputs."
        )
    if dynamics != "static":
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
    """The second quarter of the rows or columns of a map; at least one."""
    return slice(length // 4, max(length // 2, length // 4 + 1))
