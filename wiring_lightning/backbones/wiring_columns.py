"""The wiring of a network, built node by node."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from wiring_lightning.wiring import Wiring, make_wiring


@dataclass(frozen=True)
class Choice:
    """What a gate says about the edges into one node."""

    active: Sequence[bool]
    score: Sequence[float]
    learnable: bool


class WiringColumns:
    """Columns of a `Wiring` under construction; edges are given unless a choice says otherwise.

    Example:
        >>> graph = WiringColumns()
        >>> graph.add("stem", parameters=10, multiply_adds=100)
        0
        >>> graph.add("classifier", parameters=5, multiply_adds=5, reads=[0])
        1
        >>> graph.wiring().live_nodes.tolist()
        [True, True]
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._group: list[int] = []
        self._parameters: list[int] = []
        self._multiply_adds: list[int] = []
        self._source: list[int] = []
        self._target: list[int] = []
        self._active: list[bool] = []
        self._score: list[float] = []
        self._learnable: list[bool] = []
        self._edge_parameters: list[int] = []
        self._edge_multiply_adds: list[int] = []

    def add(
        self,
        name: str,
        parameters: int,
        multiply_adds: int,
        reads: Iterable[int] = (),
        costs: Iterable[tuple[int, int]] | None = None,
        choice: Choice | None = None,
    ) -> int:
        """Add a node and the edges into it, and return its number.

        Nodes that follow each other share a group if their names agree up to the last dot.

        Args:
            name: of the node.
            parameters: of the node itself.
            multiply_adds: of the node itself.
            reads: numbers of its sources.
            costs: parameters and multiply-adds of each edge, none if not given.
            choice: which of the edges are active; all, and for good, if not given.
        """
        prefix = name.rpartition(".")[0]
        group = self._group[-1] + 1 if self._group else 0
        if prefix and self._names[-1].rpartition(".")[0] == prefix:
            group = self._group[-1]
        number = len(self._names)
        self._names.append(name)
        self._group.append(group)
        self._parameters.append(parameters)
        self._multiply_adds.append(multiply_adds)
        reads = list(reads)
        self._source += reads
        self._target += [number] * len(reads)
        if choice is None:
            choice = Choice([True] * len(reads), [1.0] * len(reads), learnable=False)
        self._active += choice.active
        self._score += choice.score
        self._learnable += [choice.learnable] * len(reads)
        for edge_parameters, edge_multiply_adds in costs or [(0, 0)] * len(reads):
            self._edge_parameters.append(edge_parameters)
            self._edge_multiply_adds.append(edge_multiply_adds)
        return number

    def wiring(self) -> Wiring:
        """The wiring; the node that was added first is the input, the last one is the output."""
        return make_wiring(
            self._names,
            self._source,
            self._target,
            self._active,
            score=self._score,
            learnable=self._learnable,
            group=self._group,
            parameters=self._parameters,
            multiply_adds=self._multiply_adds,
            edge_parameters=self._edge_parameters,
            edge_multiply_adds=self._edge_multiply_adds,
        )


def count_parameters(*modules: nn.Module) -> int:
    """Numbers in all parameters."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
