"""A sparse weight matrix whose k largest entries are the edges of a graph."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional import mask_largest
from wiring_lightning.nn.checks import check_word
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.learnable import find_modules
from wiring_lightning.nn.structured import Structured

AdjacencyMode = Literal["learned", "random"]


class Adjacency(Structured, Described):
    """Connects nodes by the k largest usable weights (DNW, Section 2.2).

    A node is a channel and an edge is one weight: node v receives the sum of w_uv times the output
    of u. All other weights are zero. The layer does not change its edges itself:
    `optim.StraightThrough` does, and `callbacks.DNW` inside a Lightning trainer. `absent` holds the
    initial values of the other weights until one of them takes them.

    Shapes: images `[batch, senders, height, width]` become `[batch, receivers, height, width]`.

    Args:
        usable: `[receivers, senders]` which weights can be an edge.
        edges: k, the number of edges, between 1 and the number of usable weights.
        mode: `"learned"` (the k largest weights) or `"random"` (k random edges that stay; only
            their weights learn).
        rank_all: rank the weights that are not usable, too, as the authors of DNW do. Those among
            the k largest are edges that carry nothing.

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
    # Whether a callback may have given it more edges than its number; it then loads as many.
    may_have_more: bool = False

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
        check_word("mode", mode, AdjacencyMode)
        if usable.is_meta:
            raise ValueError(
                'usable is on the device meta, which holds no values: make it with device="cpu".'
            )
        candidates = usable.numel() if rank_all else int(usable.count_nonzero())
        if not 1 <= edges <= candidates:
            raise ValueError(
                f"the number of edges must be between 1 and {candidates}, the weights that can be "
                f"one, got {edges}."
            )
        self.receivers, self.senders = usable.shape
        self.describe(edges=edges, mode=mode, rank_all=rank_all)
        self.edges = edges
        self.mode = mode
        self.learned = mode == "learned"
        self.rank_all = rank_all
        bound = 1 / math.sqrt(self.senders)  # as a 1x1 convolution from all senders
        weight = torch.empty(usable.shape).uniform_(-bound, bound)
        known, usable = usable, usable.to(weight.device)
        if not rank_all:
            weight = weight * usable
        magnitude = weight if self.learned else torch.rand(usable.shape)
        (kept,) = mask_largest([magnitude], edges, [None if rank_all else usable])
        self.weight = nn.Parameter(weight * kept)
        self.absent = weight * ~kept if self.learned else None
        # The first weights of the edges: what `absent` belongs to.
        self._first = self.weight.detach().clone() if self.learned else None
        self.keep("usable", known)
        self.register_buffer("frozen", torch.tensor(not self.learned))
        self._fixed = not self.learned  # as `frozen`, but read without waiting for the device
        self.register_load_state_dict_post_hook(_follow_state)

    @property
    def learnable(self) -> bool:
        """Whether the edges can still change: neither random nor frozen."""
        return not self._fixed

    def matrix(self) -> Tensor:
        """`[receivers, senders]` the sparse weights; after `freeze`, zeros get no gradient."""
        return self.weight * (self.weight.detach() != 0) if self._fixed else self.weight

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix the edges; from now on only their weights learn."""
        self.take_absent()
        self.frozen.fill_(True)
        self._fixed = True

    def take_absent(self) -> Tensor | None:
        """Return the initial values of the absent weights, once; afterwards `None`."""
        absent, self.absent, self._first = self.absent, None, None
        return absent

    def way_back(self) -> Callable[[], None]:
        """Return a function that undoes `freeze` and `take_absent`; it leaves the weights alone."""
        return partial(self._go_back, self.absent, self._first, self._fixed)

    @torch.no_grad()
    def _go_back(self, absent: Tensor | None, first: Tensor | None, fixed: bool) -> None:
        self.absent, self._first, self._fixed = absent, first, fixed
        self.frozen.fill_(fixed)

    @override
    def flaw(self, values: Mapping[str, Tensor], alike: bool | None) -> str | None:
        if "weight" not in values:
            return None
        edges = values["weight"].cpu() != 0
        if not self.rank_all and (edges & ~self._kept.get("usable", self.usable).cpu()).any():
            return "has an edge there where none can be here"
        # Callbacks such as PruneAndRetrain have more edges for a while.
        more = self.may_have_more or int(self.weight.count_nonzero()) > self.edges
        count = int(edges.sum())
        if self.edges < count and not (more if alike is None else alike):
            return f"has {count} edges there and {self.edges} here"
        return None

    @override
    def forward(self, sent: Tensor) -> Tensor:
        """A 1 x 1 convolution with the sparse weights."""
        return functional.conv2d(sent, self.matrix()[:, :, None, None])

    @override
    def extra_repr(self) -> str:
        return f"{self.receivers} x {self.senders}, edges={self.edges}, mode={self.mode}"

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> "Adjacency":
        if self.absent is not None:
            self.absent = fn(self.absent)
        if self._first is not None:
            self._first = fn(self._first)
        super()._apply(fn, recurse)
        return self


def find_adjacencies(module: nn.Module) -> dict[str, Adjacency]:
    """All layers inside a module with edges that are or were learned, by qualified name.

    Example:
        >>> usable = torch.ones(4, 4, dtype=torch.bool)
        >>> graphs = nn.Sequential(Adjacency(usable, 3), Adjacency(usable, 3, mode="random"))
        >>> list(find_adjacencies(graphs))
        ['0']
    """
    return find_modules(module, Adjacency, lambda graph: graph.learned)


def _follow_state(layer: nn.Module, _incompatible: Any) -> None:
    """After loading: stay frozen if the state was, and forget the absent weights of other edges.

    The edges may be the first ones, as after Lightning's search for a batch size.
    """
    assert isinstance(layer, Adjacency)
    if layer._first is None or not _are_equal(layer.weight.detach(), layer._first):
        layer.take_absent()
    if not layer.learned:
        layer.frozen.fill_(True)
    layer._fixed = bool(layer.frozen)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Also of tensors without values, or in different places, which are not."""
    known = not one.is_meta and (one.device, one.dtype) == (other.device, other.dtype)
    return known and torch.equal(one, other)
