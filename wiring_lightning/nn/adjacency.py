"""The weighted edges between the nodes of a neural graph."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional import mask_largest
from wiring_lightning.nn.described import Described

AdjacencyMode = Literal["learned", "random"]


class Adjacency(Described):
    """Connects nodes by the k largest of all weights that could be an edge (DNW, Section 2.2).

    A node is a channel, and an edge is one weight: node v receives the sum of w_uv times what u
    sends. The weight matrix is sparse from the start: forward, evaluation and export see the
    graph's k edges and zeros elsewhere. The layer does not change its edges by itself:
    `optim.StraightThrough` does, and `callbacks.DNW` inside a Lightning trainer. Until it takes
    over, `absent` holds the first values of the other weights.

    Shapes: images `[batch, senders, height, width]` become `[batch, receivers, height, width]`.

    Args:
        usable: `[receivers, senders]` which weights can ever be an edge.
        edges: k, the number of edges.
        mode: `"learned"` (the k largest weights) or `"random"` (k random edges that stay; only
            their weights learn).
        rank_all: let weights that can never be an edge compete with the others, as the authors of
            DNW do. They use up a part of k and are edges that carry nothing.

    Raises:
        ValueError: if k is below 1 or larger than the number of weights to choose from.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> forward_only = torch.ones(4, 4, dtype=torch.bool).tril(-1)  # from lower to higher nodes
        >>> graph = Adjacency(forward_only, edges=3)
        >>> int(graph.weight.count_nonzero())
        3
        >>> graph(torch.randn(2, 4, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    taught_by: ClassVar[str] = "DNW"

    usable: Tensor
    frozen: Tensor
    absent: Tensor | None

    def __init__(
        self,
        usable: Tensor,
        edges: int,
        mode: AdjacencyMode = "learned",
        rank_all: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("learned", "random"):
            raise ValueError(f'mode must be "learned" or "random", got "{mode}".')
        candidates = usable.numel() if rank_all else int(usable.sum())
        if not 1 <= edges <= candidates:
            raise ValueError(
                f"the number of edges must be between 1 and {candidates}, the weights that can be "
                f"one, got {edges}."
            )
        self.describe(edges=edges, mode=mode, rank_all=rank_all)
        self.edges = edges
        self.mode = mode
        self.rank_all = rank_all
        bound = 1 / math.sqrt(usable.shape[1])  # as a 1x1 convolution from all senders
        weight = torch.empty(usable.shape).uniform_(-bound, bound)
        if not rank_all:
            weight = weight * usable
        magnitude = weight if mode == "learned" else torch.rand(usable.shape)
        (kept,) = mask_largest([magnitude], edges, [None if rank_all else usable])
        self.weight = nn.Parameter(weight * kept)
        self.absent = weight * ~kept if mode == "learned" else None
        self.register_buffer("usable", usable, persistent=False)
        self.register_buffer("frozen", torch.tensor(mode == "random"))
        self._fixed = mode == "random"
        self.register_load_state_dict_post_hook(_follow_state)

    @property
    def learnable(self) -> bool:
        """Whether the edges still change: not random, and not frozen yet."""
        return not self._fixed

    @property
    def rankable(self) -> Tensor | None:
        """`[receivers, senders]` the weights among which the largest are the edges; `None`: all."""
        return None if self.rank_all else self.usable

    def matrix(self) -> Tensor:
        """`[receivers, senders]` the sparse weights; once frozen, absent ones get no gradient."""
        return self.weight * (self.weight.detach() != 0) if self._fixed else self.weight

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep the present edges for good; only their weights learn from now on."""
        self.absent = None
        self.frozen.fill_(True)
        self._fixed = True

    def take_absent(self) -> Tensor | None:
        """Hand over the first values of absent weights to the rule that learns the edges."""
        absent, self.absent = self.absent, None
        return absent

    @override
    def flaw(self, values: Mapping[str, Tensor], alike: bool) -> str | None:
        if "weight" not in values:
            return None
        edges = values["weight"].cpu() != 0
        if not self.rank_all and (edges & ~self.usable.cpu()).any():
            return "has an edge there where none can be here"
        # Callbacks such as PruneAndRetrain have more edges for a while.
        count, own = int(edges.sum()), int(self.weight.count_nonzero())
        if not alike and own <= self.edges < count:
            return f"has {count} edges there and {self.edges} here"
        return None

    @override
    def forward(self, sent: Tensor) -> Tensor:
        """What every node receives from all senders at once."""
        return functional.conv2d(sent, self.matrix()[:, :, None, None])

    @override
    def extra_repr(self) -> str:
        receivers, senders = self.weight.shape
        return f"{receivers} x {senders}, edges={self.edges}, mode={self.mode}"

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> "Adjacency":
        if self.absent is not None:
            self.absent = fn(self.absent)
        super()._apply(fn, recurse)
        return self


def find_adjacencies(module: nn.Module) -> dict[str, Adjacency]:
    """All graphs inside a module whose edges learn or have learned, by their qualified name."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, Adjacency) and child.mode != "random"
    }


def _follow_state(layer: nn.Module, _incompatible: Any) -> None:
    """Loaded edges have no values of absent weights; edges that were frozen stay frozen."""
    assert isinstance(layer, Adjacency)
    layer.absent = None
    if layer.mode == "random":
        layer.frozen.fill_(True)
    layer._fixed = bool(layer.frozen)
