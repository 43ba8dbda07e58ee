"""Tasks with a planted wiring, and the same small network with every kind of learned edges.

There are T targets and C sources. A source sees a Gaussian vector of its own. A target of the
teacher sums K encoded sources and computes one number from the sum. With own labels each target has
its number as a label; with a shared label only the sum of all numbers is known.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.nn import Adjacency, BernoulliGate, Gate

SIZE, WIDTH = 4, 16  # of a source's vector, and of its code in the student
TEACHER_WIDTH = 8


@dataclass(frozen=True)
class Task:
    """A teacher, and how its labels are given.

    Args:
        wiring: `[targets, sources]` the planted edges.
        shared: whether there is one label, the sum over the targets.
        encoders: `[sources, TEACHER_WIDTH, SIZE]`.
        heads: `[targets, TEACHER_WIDTH, TEACHER_WIDTH]` of the hidden units.
        readouts: `[targets, TEACHER_WIDTH]`.
        mean: of the labels.
        deviation: of the labels.
    """

    wiring: Tensor
    shared: bool
    encoders: Tensor
    heads: Tensor
    readouts: Tensor
    mean: Tensor
    deviation: Tensor

    @property
    def fan_in(self) -> int:
        """K."""
        return int(self.wiring.sum(1)[0])

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sources `[count, sources, SIZE]` and labels `[count, targets or 1]` of variance one."""
        sources = torch.randn(count, self.wiring.shape[1], SIZE, generator=generator)
        return sources, self.label(sources)

    def label(self, sources: Tensor) -> Tensor:
        """`[count, sources, SIZE]` -> `[count, targets or 1]`."""
        codes = torch.einsum("bcs,cws->bcw", sources, self.encoders).relu()
        codes = codes - self.encoders.norm(dim=-1) / (2 * math.pi) ** 0.5  # minus their mean
        sums = torch.einsum("tc,bcw->btw", self.wiring.float(), codes)
        hidden = torch.einsum("btw,tvw->btv", sums, self.heads).tanh()
        numbers = torch.einsum("btv,tv->bt", hidden, self.readouts)
        labels = numbers.sum(1, keepdim=True) if self.shared else numbers
        return (labels - self.mean) / self.deviation


def make_task(seed: int, shared: bool, targets: int = 8, sources: int = 8, fan_in: int = 2) -> Task:
    """A random teacher: each target reads K distinct sources, drawn uniformly."""
    generator = torch.Generator().manual_seed(seed)
    wiring = random_wiring(targets, sources, fan_in, generator)
    encoders = torch.randn(sources, TEACHER_WIDTH, SIZE, generator=generator) / SIZE**0.5
    shape = (targets, TEACHER_WIDTH, TEACHER_WIDTH)
    heads = 2 * torch.randn(shape, generator=generator) / TEACHER_WIDTH**0.5
    readouts = torch.randn(targets, TEACHER_WIDTH, generator=generator)
    zero, one = torch.zeros(1), torch.ones(1)
    draft = Task(wiring, shared, encoders, heads, readouts, zero, one)
    _, labels = draft.sample(20_000, generator)
    return Task(wiring, shared, encoders, heads, readouts, labels.mean(0), labels.std(0))


def random_wiring(
    targets: int, sources: int, fan_in: int, generator: torch.Generator, cover: bool = False
) -> Tensor:
    """`[targets, sources]` K random edges a target; with `cover`, every source is read."""
    while True:
        keys = torch.rand(targets, sources, generator=generator)
        chosen = torch.zeros_like(keys, dtype=torch.bool)
        chosen.scatter_(1, keys.topk(fan_in).indices, True)
        if not cover or bool(chosen.any(0).all()):
            return chosen


class Student(nn.Module):
    """An encoder a source, edges, and a head a target: `[batch, sources, SIZE]` to its numbers.

    Args:
        task: what it learns.
        edges: what connects codes `[batch, sources, WIDTH]` to inputs `[batch, targets, WIDTH]`.
    """

    def __init__(self, task: Task, edges: nn.Module) -> None:
        super().__init__()
        targets, sources = task.wiring.shape
        self.shared = task.shared
        self.edges = edges
        self.encoder = nn.Parameter(torch.randn(sources, SIZE, WIDTH) / SIZE**0.5)
        self.norm = nn.BatchNorm1d(targets * WIDTH)
        self.head = nn.Parameter(torch.randn(targets, WIDTH, WIDTH) / WIDTH**0.5)
        self.bias = nn.Parameter(torch.zeros(targets, 1, WIDTH))
        self.readout = nn.Parameter(torch.randn(targets, WIDTH, 1) / WIDTH**0.5)

    def forward(self, sources: Tensor) -> Tensor:
        """`[batch, targets]`, or `[batch, 1]` for a shared label."""
        codes = torch.bmm(sources.transpose(0, 1), self.encoder).relu().transpose(0, 1)
        sums = self.norm(self.edges(codes).flatten(1)).view(len(sources), -1, WIDTH)
        hidden = torch.baddbmm(self.bias, sums.transpose(0, 1), self.head).relu()
        numbers = torch.bmm(hidden, self.readout).squeeze(-1).t()
        return numbers.sum(1, keepdim=True) if self.shared else numbers


class WeightedEdges(nn.Module):
    """One weight an edge: a graph of DNW whose nodes are sources and targets."""

    def __init__(self, targets: int, sources: int, fan_in: int) -> None:
        super().__init__()
        usable = torch.ones(targets, sources, dtype=torch.bool)
        self.graph = Adjacency(usable, edges=targets * fan_in)

    def forward(self, codes: Tensor) -> Tensor:
        """`[batch, sources, width]` -> `[batch, targets, width]`."""
        out: Tensor = self.graph(codes.unsqueeze(-1)).squeeze(-1)
        return out

    def found(self) -> Tensor:
        """`[targets, sources]` the edges."""
        return self.graph.weight.detach() != 0


class SparseLayer(nn.Module):
    """A dense layer from all codes to all inputs whose largest weights stay: DNW on weights."""

    def __init__(self, targets: int, sources: int, fan_in: int) -> None:
        super().__init__()
        self.shape = (targets, WIDTH, sources, WIDTH)
        bound = 1 / (sources * WIDTH) ** 0.5
        self.weight = nn.Parameter(torch.empty(self.shape).uniform_(-bound, bound))
        self.kept = targets * fan_in * WIDTH * WIDTH  # as many as a target with K whole sources
        self.fan_in = fan_in

    def forward(self, codes: Tensor) -> Tensor:
        """`[batch, sources, width]` -> `[batch, targets, width]`."""
        targets, width = self.shape[:2]
        flat = functional.linear(codes.flatten(1), self.weight.view(targets * width, -1))
        return flat.view(len(codes), targets, width)

    def found(self) -> Tensor:
        """`[targets, sources]` the K sources of each target with the largest weights in sum."""
        sums = self.weight.detach().abs().sum((1, 3))
        return torch.zeros_like(sums, dtype=torch.bool).scatter(
            1, sums.topk(self.fan_in).indices, True
        )


class DrawnEdges(nn.Module):
    """Edges that are drawn for each example: a budgeted super network of two layers."""

    def __init__(self, targets: int, sources: int) -> None:
        super().__init__()
        self.shape = (targets, sources)
        first = list(range(1, sources + 1))
        middle = range(sources + 1, sources + targets + 1)
        source = [0] * sources + first * targets + list(middle)
        target = first + [node for node in middle for _ in first]
        target += [sources + targets + 1] * targets
        count = targets * sources
        learnable = [False] * sources + [True] * count + [False] * targets
        self.between = slice(sources, sources + count)
        self.gate = BernoulliGate(sources + targets + 2, source, target, learnable, initial=0.0)
        self.cost = torch.empty(0)  # edges that each example of the last batch used

    def forward(self, codes: Tensor) -> Tensor:
        """`[batch, sources, width]` -> `[batch, targets, width]`."""
        drawn = self.gate.draw(len(codes))[:, self.between].float()
        self.cost = drawn.sum(1)
        out: Tensor = torch.einsum("btc,bcw->btw", drawn.view(-1, *self.shape), codes)
        return out

    def found(self) -> Tensor:
        """`[targets, sources]` the most probable architecture."""
        return self.gate.best[self.between].view(self.shape)


def fixed_gate(wiring: Tensor) -> Gate:
    """A frozen gate with a given wiring."""
    gate = Gate(*wiring.shape, int(wiring.sum(1)[0]))
    with torch.no_grad():
        gate.scores.copy_(wiring / wiring.sum(1, keepdim=True))
    gate.freeze()
    return gate
