"""A stack of multi-branch modules with connections between them, learned or fixed."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import apply_in_parts, examples_per_part, may_split
from wiring_lightning.functional.transforms import is_transformed
from wiring_lightning.nn import Branches, Gate, Selection
from wiring_lightning.nn.branch_chain import branch_chain, can_chain
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import BatchNorm, examples_are_independent, fold_batch_norms
from wiring_lightning.nn.hooks import computes_as, has_hooks, in_place_of
from wiring_lightning.nn.plain_weights import of_plain_weights
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
        self.blocks = nn.ModuleDict({module_name(i): block for i, block in enumerate(blocks)})
        self.connections = nn.ModuleDict(dict(connections))
        self.classifier = classifier
        # Bytes of the largest state for each of its pixels, if examples may be computed in parts.
        self.bytes_per_pixel: int | None = None

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        way = self._logits_by_chain if self._may_chain(images) else self._logits
        if self.bytes_per_pixel is None or not may_split(images):
            return way(images)
        pixels = images.shape[2] * images.shape[3] // self.reduction**2
        size = examples_per_part(self.bytes_per_pixel * pixels) * torch.get_num_threads()
        if len(images) > size and _needs_whole_batch(self):
            return way(images)
        return apply_in_parts(way, images, size)

    def _logits(self, images: Tensor) -> Tensor:
        """The logits of some images at once, module by module."""
        state = self.stem(images).unsqueeze(1)
        for name, block in self.blocks.items():
            if name in self.connections:
                state = self._connection(name).rectified(state)
            state = block(state)
            if block.merge:
                state = state.relu_()
        logits: Tensor = self.classifier(state.squeeze(1).mean((2, 3)))
        return logits

    def _logits_by_chain(self, images: Tensor) -> Tensor:
        """As `_logits`, where the modules with branches of their own are one function in C."""
        state: Tensor = self.stem(images).unsqueeze(1)
        for blocks, selections in self._chains():
            state = branch_chain(state, blocks, selections) if selections else blocks[0](state)
            state = state.relu_()
        logits: Tensor = self.classifier(state.squeeze(1).mean((2, 3)))
        return logits

    def _may_chain(self, images: Tensor) -> bool:
        """Whether `_logits_by_chain` is right here: on a CPU, in evaluation, without gradients."""
        return (
            len(self.connections) > 0
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_exporting()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and not is_transformed()
            and _has_plain_chains(self)
        )

    def _chains(self) -> list[tuple[list[Branches], list[Selection]]]:
        """The modules from each that reads one state to the next that gives one."""
        chains: list[tuple[list[Branches], list[Selection]]] = []
        for name, block in self._blocks():
            if name not in self.connections:
                chains.append(([block], []))
                continue
            selection = self.connections[name]
            assert isinstance(selection, Selection)
            chains[-1][0].append(block)
            chains[-1][1].append(selection)
        return chains

    def wiring(self) -> Wiring:
        """Branches as nodes and possible connections as edges, active as in evaluation mode."""
        graph, side = WiringBuilder(), self.image_size
        previous = torch.tensor([graph.add_layers("stem", self.stem, side=side)], device="cpu")
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
                learns = isinstance(connection, Gate) and not connection.fixed
                learnable = torch.tensor(learns, device="cpu")
                graph.choose(previous, current, choice._replace(learnable=learnable))
            else:
                graph.connect(previous, current[:, None])
            previous = current
        graph.add_layers("classifier", self.classifier, side=side, reads=previous)
        return graph.wiring()

    @torch.no_grad()
    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "MultiBranchNetwork":
        """The network in evaluation mode, without gates and unused branches.

        Branches that all readers read are summed. A CPU computes a large batch in parts, and
        branches with inputs of their own in C, if the machine has a compiler.

        Args:
            fold_batch_norm: fold the batch norms into the convolutions, for inference only.
        """
        wiring, independent = self.wiring(), examples_are_independent(self)
        live = wiring.live_nodes
        kept = [
            live[wiring.nodes.group == row].nonzero().flatten().tolist()
            for row in range(1, len(self.blocks) + 1)
        ]
        selections = {}
        for position, (name, _) in enumerate(self._blocks()):
            if name not in self.connections:
                continue
            whole = self._connection(name).selection()
            selections[name] = whole.keep(kept[position], kept[position - 1])
        blocks = [block.keep(rows) for (_, block), rows in zip(self._blocks(), kept, strict=True)]
        connections = {}
        for name, (earlier, later) in zip(list(self.blocks)[1:], pairwise(blocks), strict=True):
            # A projection of each reader's input counts in the wiring, and in batch statistics.
            share = later.projection is None or (fold_batch_norm and independent)
            if name in selections and selections[name].reads_everything and share:
                earlier.merge_branches()
                later.share_input()
            elif name in selections:
                connections[name] = selections[name]
        compacted = MultiBranchNetwork(
            stem=deepcopy(self.stem),
            blocks=blocks,
            connections=connections,
            classifier=deepcopy(self.classifier),
            image_size=self.image_size,
            reduction=self.reduction,
        ).eval()
        if fold_batch_norm:
            fold_batch_norms(compacted)
        if independent and all(block.merge or block.can_fold_expansion for block in blocks):
            compacted.bytes_per_pixel = _bytes_per_pixel(blocks)
        return in_place_of(self, compacted)

    def _connection(self, name: str) -> Gate | Selection:
        connection = self.connections[name]
        assert isinstance(connection, Gate | Selection)
        return connection

    def _blocks(self) -> list[tuple[str, Branches]]:
        items = self.blocks.items()
        return [(name, block) for name, block in items if isinstance(block, Branches)]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_plain_chains(network: MultiBranchNetwork) -> bool:
    """Whether all that a chain computes without calling it is as it was made."""
    connections, blocks = network.connections.values(), network._blocks()
    return (
        all(type(one) is Selection and one.is_as_seen for one in connections)
        and all(type(block) is Branches for _, block in blocks)  # a subclass may compute others
        and not any(map(has_hooks, [*connections, *network.blocks.values()]))
        and can_chain([block for _, block in blocks])
    )


def _needs_whole_batch(network: MultiBranchNetwork) -> bool:
    """Whether a large batch must not be computed in parts.

    That is so if a norm takes statistics of the batch, or if the call of a module matters: it has
    hooks, or another class than this package gives it.
    """
    for part in network.modules():
        if isinstance(part, BatchNorm) and part.training:
            return True
        if has_hooks(part) and part is not network:
            return True
    return not computes_as(Branches, *(block for _, block in network._blocks()))


def module_name(index: int) -> str:
    """The name of a module by its place, from 0.

    Example:
        >>> module_name(0)
        'module1'
    """
    return f"module{index + 1}"


def _bytes_per_pixel(blocks: Sequence[Branches]) -> int:
    """Bytes of the largest input of a module, for each pixel that the first module reads."""
    largest, reduction = 0.0, 1
    for block in blocks:
        streams = 1 if block.shared_input else block.branches
        numbers = streams * block.in_channels * block.reduce.weight.element_size()
        largest = max(largest, numbers / reduction**2)
        reduction *= block.stride
    return round(largest)
