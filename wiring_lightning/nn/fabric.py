"""A graph of small networks in which every example can use a different part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional.budgeted_search import Topology
from wiring_lightning.functional.spaces import Space
from wiring_lightning.functional.subsets import WHOLE, Subset, exchange, keep_state, split_batch
from wiring_lightning.nn.bernoulli_gate import BernoulliGate
from wiring_lightning.nn.checks import check_word
from wiring_lightning.nn.described import Described

Statistics = Literal["drawn", "batch"]


@dataclass(frozen=True, eq=False)
class FabricEdge:
    """An edge of a fabric.

    Args:
        name: unique, such as `"stage1.block2.residual"`.
        source: number of the source node.
        target: number of the target node, which must be higher.
        module: applied to the state of the source, which it must not change in place; the identity
            if not given.
        learnable: whether the gate may leave it out.
    """

    name: str
    source: int
    target: int
    module: nn.Module | None = None
    learnable: bool = True


class Fabric(Described):
    """A super-network: a node sums the outputs of the modules on its edges (BSN, Section 2).

    Node 0 is the input. The state of any other node is the ReLU of the sum over its edges. In
    training mode `gate` samples the edges of each example (Algorithm 1 of the paper).

    With `statistics="drawn"` a module runs only on examples that have its edge on a path from the
    input to the output. So batch statistics come from these examples only, and a node that is not
    connected for an example has a state of exactly zero. With `statistics="batch"` a module that
    any example drew runs on the states of the whole batch, as in the authors' code, and its output
    counts only for the examples that drew it. So batch statistics come from the whole batch, also
    from the zeros of examples that do not reach the source. That takes longer. Evaluation, warm-up
    and a frozen fabric compute the same with both.

    A module that no example uses does not run, and its gradients are `None`. Under DDP, set
    `find_unused_parameters=True`, and do not use `SyncBatchNorm`: it would wait for ranks that do
    not run the module.

    Args:
        spaces: the shape of every node's state. The last node is the output.
        edges: the edges. There is no gate if none of them is learnable. Edges out of a node that
            nothing leads to are never active.
        initial: initial value of all logits of the gate.
        statistics: which examples the batch norms of a search see, `"drawn"` or `"batch"`.

    Raises:
        ValueError: if a target is not higher than its source, or two edges share a name.

    Example:
        >>> fabric = Fabric([Space(4, 1)] * 3, [
        ...     FabricEdge("first", 0, 1, nn.Conv2d(4, 4, 3, padding=1)),
        ...     FabricEdge("second", 1, 2, nn.Conv2d(4, 4, 3, padding=1)),
        ...     FabricEdge("skip", 0, 2),
        ... ])
        >>> state, connected = fabric.eval()(torch.randn(8, 4, 6, 6))
        >>> state.shape, connected  # every example has a path to the output
        (torch.Size([8, 4, 6, 6]), None)
    """

    gate: BernoulliGate | None

    def __init__(
        self,
        spaces: Sequence[Space],
        edges: Sequence[FabricEdge],
        initial: float = 3.0,
        statistics: Statistics = "drawn",
    ) -> None:
        super().__init__()
        check_word("statistics", statistics, Statistics)
        self.statistics = statistics
        self.spaces = tuple(spaces)
        self.names = tuple(edge.name for edge in edges)
        self.describe(edges=self.names)
        self.source = tuple(edge.source for edge in edges)
        self.target = tuple(edge.target for edge in edges)
        if len(set(map(_key, self.names))) < len(edges):
            raise ValueError("two edges of a fabric have the same name (a dot counts as _).")
        self.edge_modules = nn.ModuleDict(
            {_key(edge.name): edge.module for edge in edges if edge.module is not None}
        )
        gate = BernoulliGate(
            len(spaces), self.source, self.target, [edge.learnable for edge in edges], initial
        )
        self.gate = gate if gate.learnable else None
        self.topology = Topology(len(spaces), self.source, self.target)
        # What runs without a gate: every module on a path from the input to the output.
        all_live = self.topology.live(self.topology.connected())
        self._without_gate = split_batch(all_live, torch.device("cpu"))
        self._into: list[list[int]] = [[] for _ in spaces]
        self._out_of: list[list[int]] = [[] for _ in spaces]
        for number, edge in enumerate(edges):
            self._into[edge.target].append(number)
            self._out_of[edge.source].append(number)

    def module_of(self, edge: int) -> nn.Module | None:
        """The module on an edge; `None` for an identity."""
        name = _key(self.names[edge])
        if name not in self.edge_modules:
            return None
        return self.edge_modules[name]

    @property
    def best(self) -> Tensor:
        """`[edges]` the edges of evaluation mode."""
        if self.gate is None:
            return self.topology.connected()[0]
        return self.gate.best

    def edges(self) -> list[FabricEdge]:
        """All edges, with their present modules."""
        learnable = [False] * len(self.names)
        if self.gate is not None:
            learnable = self.gate._learnable.tolist()  # known also if the gate is on `meta`
        columns = zip(self.names, self.source, self.target, learnable, strict=True)
        return [
            FabricEdge(name, source, target, self.module_of(number), choice)
            for number, (name, source, target, choice) in enumerate(columns)
        ]

    @override
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the state of the output.

        Args:
            inputs: `[batch, channels, height, width]`, the state of node 0.

        Returns:
            The state of the last node, and `[batch]` which examples have a path to it (`None` if
            all have one). The state of the others is zero.
        """
        subsets = self._without_gate
        if self.gate is not None:
            if self.gate.fixed is None:
                if torch.compiler.is_exporting():
                    raise RuntimeError(
                        "a fabric that still learns cannot be exported, because each batch asks "
                        "anew which edges it has: export what compact() of its network gives, or "
                        "freeze its gate first."
                    )
                return self._run_drawn(inputs)
            subsets = [WHOLE if live else None for live in self.gate.fixed]
        nowhere = None if any(subsets) else inputs.new_zeros(inputs.shape[0], dtype=torch.bool)
        return self._run(inputs, subsets), nowhere

    @torch.compiler.disable(  # type: ignore[untyped-decorator]
        reason="every example draws its own architecture until the fabric is frozen"
    )
    def _run_drawn(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Not compiled: the sizes of the parts differ in each step, so each step would compile."""
        assert self.gate is not None
        drawn = self.gate.draw_on_cpu(len(inputs))
        live = self.topology.live(drawn)
        used = drawn if self.statistics == "batch" else live
        members = torch.cat([used, live.any(1, keepdim=True)], 1)
        *subsets, connected = split_batch(members, inputs.device)
        state = self._run(inputs, subsets)
        if connected is None:
            return state, inputs.new_zeros(len(inputs), dtype=torch.bool)
        return state, connected.mask  # `None` for the whole batch

    def _run(self, inputs: Tensor, subsets: Sequence[Subset | None]) -> Tensor:
        """Compute the nodes in order; a state is kept until its last edge has read it.

        The batch is `shape[0]` here: `len` of a tensor would fix it in `torch.export`.
        """
        arriving: dict[int, tuple[Tensor, Tensor]] = {}
        state = None
        for node in range(len(self.spaces)):
            state = None
            parts, examples, dense = [], [], []
            for edge in self._into[node]:
                subset = subsets[edge]
                if subset is not None:
                    read = WHOLE if self._reads_all(edge) else subset
                    parts.append(self._compute(edge, *arriving.pop(edge), read))
                    examples.append(subset)
                    dense.append(self._reads_all(edge))
            if node == 0:
                parts, examples, dense = [inputs], [WHOLE], [True]
            if not parts:
                continue
            readers = {
                edge: WHOLE if self._reads_all(edge) else subset
                for edge in self._out_of[node]
                if (subset := subsets[edge]) is not None
            }
            state, handed = exchange(
                parts, examples, dense, list(readers.values()), inputs.shape[0], rectify=node > 0
            )
            arriving |= {edge: (part, state) for edge, part in zip(readers, handed, strict=True)}
            del handed, parts  # so that memory is freed after the last reader
        return self._zeros(inputs) if state is None else state

    def _reads_all(self, edge: int) -> bool:
        """Whether an edge reads the states of all examples, also of those that did not draw it."""
        return self.statistics == "batch" or self.module_of(edge) is None

    def _compute(self, edge: int, part: Tensor, state: Tensor, subset: Subset) -> Tensor:
        """The output of an edge for its part of a state; an identity reads the whole state."""
        module = self.module_of(edge)
        if module is None:
            return part
        with keep_state(state, part, subset):
            output: Tensor = module(part)
        return output

    def _zeros(self, inputs: Tensor) -> Tensor:
        """The state of the output if no example is connected to it."""
        first, last = self.spaces[0], self.spaces[-1]
        sides = [-(-side * first.reduction // last.reduction) for side in inputs.shape[2:]]
        return inputs.new_zeros(inputs.shape[0], last.channels, *sides)


def _key(name: str) -> str:
    """The name of an edge as a submodule name, which has no dots."""
    return name.replace(".", "_")
