"""A small network of branches on images, whose edges a learner of `image_wirings` chooses."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.planted_networks import fixed_gate, random_wiring
from wiring_lightning.functional import balanced_mask, gated_sum
from wiring_lightning.nn import Gate, find_gates
from wiring_lightning.optim import GateSGD

MODULES, BRANCHES, CHANNELS = 6, 8, 8


class Branched(nn.Module):
    """Modules of parallel residual branches, as in a ResNeXt but thin: a minute trains thousands.

    A branch takes the mean of its K sources, adds a 3x3 convolution with batch norm to it, and
    gives CHANNELS maps. Images are halved once, after three modules.

    Args:
        make_edges: the layer from the branches before to the inputs of a module, of which
            `MODULES - 1` are made; the first module reads the stem.
        fan_in: K.
    """

    def __init__(self, make_edges: Callable[[], nn.Module], fan_in: int) -> None:
        super().__init__()
        maps = BRANCHES * CHANNELS
        self.fan_in = fan_in
        self.stem = nn.Sequential(
            nn.Conv2d(3, maps, 3, padding=1, bias=False), nn.BatchNorm2d(maps)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(maps, maps, 3, padding=1, groups=BRANCHES, bias=False),
                nn.BatchNorm2d(maps),
            )
            for _ in range(MODULES)
        )
        self.classifier = nn.Linear(maps, 10)
        # Edges come last, so that a seed gives the same weights with all of them.
        self.edges = nn.ModuleList(make_edges() for _ in range(MODULES - 1))

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, 3, 8, 8]` to logits `[batch, 10]`."""
        x = self.stem(images)
        for index, block in enumerate(self.blocks):
            if index:
                x = self.edges[index - 1](x.unflatten(1, (BRANCHES, CHANNELS))).flatten(1, 2)
            x = x + block(x)
            if index == MODULES // 2 - 1:
                x = functional.avg_pool2d(x, 2)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def found(self) -> Tensor:
        """`[modules, targets, sources]` the edges of evaluation mode."""
        return torch.stack([edges.best for edges in self.edges])  # type: ignore[misc]


class Chosen(nn.Module):
    """A gate of K sources whose targets get the mean."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    @property
    def best(self) -> Tensor:
        """`[targets, sources]` the edges."""
        return self.gate.best

    def forward(self, sources: Tensor) -> Tensor:
        """`[batch, sources, *features]` to `[batch, targets, *features]`."""
        out: Tensor = self.gate(sources)
        return out / self.gate.fan_in


class Mixture(nn.Module):
    """A softmax over the sources that are left: nothing is drawn, and sources are dropped."""

    best: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(BRANCHES, BRANCHES))
        self.register_buffer("best", torch.ones(BRANCHES, BRANCHES, dtype=torch.bool))

    def forward(self, sources: Tensor) -> Tensor:
        """`[batch, sources, *features]` to `[batch, targets, *features]`."""
        return gated_sum(self.logits.masked_fill(~self.best, -torch.inf).softmax(1), sources)

    @torch.no_grad()
    def keep(self, fan_in: int) -> None:
        """Drop all but the heaviest `fan_in` sources a target, about as many readers a source."""
        weights = self.logits.softmax(1).masked_fill(~self.best, 0.0)
        self.best.copy_(balanced_mask(weights, fan_in) & self.best)


class Rule:
    """Edges that stay as they are; a subclass learns them."""

    network: Branched

    def __init__(self, fan_in: int, seed: int, steps: int) -> None:
        self.fan_in, self.seed, self.steps = fan_in, seed, steps
        self.generator = torch.Generator().manual_seed(1000 + seed)

    def edges(self) -> nn.Module:
        """One layer of edges."""
        shape = (BRANCHES, BRANCHES)
        wiring = random_wiring(*shape, self.fan_in, self.generator, cover=False)
        return Chosen(fixed_gate(wiring))

    def start(self, network: Branched, optimizer: Optimizer) -> None:  # noqa: ARG002
        """Begin to learn the edges of `network`."""
        self.network = network

    def step(self, done: int) -> None:
        """Learn after a step of the optimizer, the `done`-th."""

    def freeze(self) -> None:
        """Fix the edges."""


class Covered(Rule):
    """Random edges that read all sources."""

    def edges(self) -> nn.Module:
        """One layer of edges."""
        shape = (BRANCHES, BRANCHES)
        return Chosen(fixed_gate(random_wiring(*shape, self.fan_in, self.generator, cover=True)))


class All(Rule):
    """Every target reads all sources: the plain network."""

    def edges(self) -> nn.Module:
        """One layer of edges."""
        return Chosen(fixed_gate(torch.ones(BRANCHES, BRANCHES)))


class Given(Rule):
    """Edges that another run has found."""

    def __init__(self, *arguments: int, wiring: Tensor) -> None:
        super().__init__(*arguments)
        self.wirings = iter(wiring)

    def edges(self) -> nn.Module:
        """One layer of edges."""
        return Chosen(fixed_gate(next(self.wirings).float()))


class Gates(Rule):
    """MaskConnect and its variants; `forget` freezes to a random wiring instead of the learned."""

    def __init__(self, *arguments: int, forget: bool = False, **options: Any) -> None:
        super().__init__(*arguments)
        self.forget, self.options = forget, options

    def edges(self) -> nn.Module:
        """One layer of edges."""
        return Chosen(Gate(BRANCHES, BRANCHES, self.fan_in))

    def start(self, network: Branched, optimizer: Optimizer) -> None:
        """Make the optimizer of the scores."""
        super().start(network, optimizer)
        if self.options.get("explore") == "swap":
            self.options["anneal_steps"] = self.steps
        self.rule = GateSGD(find_gates(network).values(), seed=self.seed, **self.options)

    def step(self, done: int) -> None:  # noqa: ARG002
        """Update the scores, and draw."""
        self.rule.step()
        self.rule.zero_grad()

    @torch.no_grad()
    def freeze(self) -> None:
        """Choose the wiring for good."""
        if self.forget:
            for gate in find_gates(self.network).values():
                keys = torch.rand(gate.scores.shape, generator=self.generator)
                gate.scores.copy_(keys / keys.sum(1, keepdim=True))
        self.rule.freeze()


class Mixed(Rule):
    """Softmax weights over all sources, of which the heaviest stay: at once, or one by one."""

    def __init__(self, *arguments: int, gradual: bool = False) -> None:
        super().__init__(*arguments)
        self.gradual = gradual

    def edges(self) -> nn.Module:
        """One layer of edges."""
        return Mixture()

    def step(self, done: int) -> None:
        """Drop a source a target, at equal distances over the learning steps."""
        left = BRANCHES - self.fan_in
        every = max(self.steps // (left + 1), 1)
        if self.gradual and done % every == 0 and done // every <= left:
            self._keep(BRANCHES - done // every)

    def freeze(self) -> None:
        """Keep K sources a target."""
        self._keep(self.fan_in)

    def _keep(self, fan_in: int) -> None:
        for edges in self.network.edges:
            assert isinstance(edges, Mixture)
            edges.keep(fan_in)


Make = Callable[[int, int, int], Rule]


def _gates(**options: Any) -> Make:
    return lambda *arguments: Gates(*arguments, **options)


COVERED = "random, all sources read"
CONTROLS: dict[str, Make] = {
    "full": All,
    "random": Rule,
    COVERED: Covered,
    "drawn uniformly, then random": _gates(lr=0.0, forget=True),
}
LEARNED: dict[str, Make] = {
    "MaskConnect": _gates(),
    "MaskConnect, project": _gates(update="project"),
    "MaskConnect, balance, center": _gates(balance=True, center=True),
    "MaskConnect, balance, center, draw_every 50": _gates(balance=True, center=True, draw_every=50),
    "MaskConnect, swap, lr 0.25, draw_every 50": _gates(explore="swap", lr=0.25, draw_every=50),
    "softmax over all, then the heaviest": Mixed,
    "softmax over all, one dropped at a time": lambda *arguments: Mixed(*arguments, gradual=True),
}
