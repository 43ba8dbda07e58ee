"""The stochastic gate: every edge is sampled per example with its own probability."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional.budgeted_search import Topology, draw_edges, most_probable_edges
from wiring_lightning.functional.transfer import send
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.learnable import find_modules
from wiring_lightning.nn.structured import Structured
from wiring_lightning.wiring import Choice


class BernoulliGate(Structured, Described):
    """Samples the active edges of a graph for each example (BSN, Section 3.2).

    Edges are sampled in order, from the input to the output. If the source of an edge is connected
    to the input, the edge is active with probability `sigmoid(logit)`; otherwise it is inactive.
    The output may end up unconnected.

    Edges are sampled on the CPU, because the host has to know which modules to run: each draw reads
    the logits, which is the one time that a step of a search waits for an accelerator. Nothing
    waits once the gate is frozen.

    In training mode every call of `draw` samples again. With `sampling = False` (the paper's
    warm-up) all edges with a connected source are active. In evaluation mode and after `freeze` the
    edges are `best`. The gate does not update itself: `callbacks.BudgetedSearch` updates the logits
    by policy gradient from `drawn` and `asked`. Logits and the frozen mark are in the `state_dict`.

    Args:
        nodes: number of nodes. Node 0 is the input, the last one the output.
        source: number of the source node of each edge.
        target: number of the target node of each edge, which must be higher.
        learnable: which edges are sampled; all if not given. The others are always active.
        initial: initial value of all logits. The paper's 3 is a probability of 0.95.

    Attributes:
        drawn: `[batch, edges]` the active edges of the last draw in training mode, on the CPU.
        asked: `[batch, edges]` the edges that were sampled in that draw, on the CPU: learnable ones
            with a connected source.
        sampling: whether training mode samples.
        fixed: once frozen, whether each edge is on a path from the input to the output.

    Raises:
        ValueError: if a target is not higher than its source, or a list has the wrong length.

    Example:
        >>> gate = BernoulliGate(nodes=3, source=[0, 0, 1], target=[1, 2, 2])
        >>> gate.seed(0)
        >>> gate.draw(batch=4).shape
        torch.Size([4, 3])
        >>> gate.eval().draw(batch=1)
        tensor([[True, True, True]])
    """

    taught_by: ClassVar[str] = "BudgetedSearch"

    logits: nn.Parameter
    learnable_edges: Tensor
    frozen: Tensor

    def __init__(
        self,
        nodes: int,
        source: Sequence[int],
        target: Sequence[int],
        learnable: Sequence[bool] | None = None,
        initial: float = 3.0,
    ) -> None:
        super().__init__()
        self.topology = Topology(nodes, source, target)
        if learnable is None:
            learnable = [True] * self.topology.edges
        if len(learnable) != self.topology.edges:
            raise ValueError(
                f"learnable needs one entry for each of the {self.topology.edges} edges, got "
                f"{len(learnable)}."
            )
        self.describe(source=source, target=target, learnable=learnable)
        self.sampling = True
        self.fixed: tuple[bool, ...] | None = None
        self.drawn: Tensor | None = None
        self.asked: Tensor | None = None
        self._generator: torch.Generator | None = None
        self._repeated: int | None = None  # the seed of every draw, if all are to be the same
        self._best: Tensor | None = None  # `best` on the CPU, once frozen
        self._learnable = torch.tensor(learnable, dtype=torch.bool, device="cpu")
        self.logits = nn.Parameter(torch.full((self.topology.edges,), float(initial)))
        self.keep("learnable_edges", self._learnable)
        self.register_buffer("frozen", torch.tensor(False))
        self._is_frozen = False  # as `frozen`, but read without waiting for the device
        self._has_choice = any(learnable)
        self.logits.requires_grad_(self._has_choice)
        self.register_load_state_dict_post_hook(_follow_frozen_mark)

    @property
    def learnable(self) -> bool:
        """Whether the edges can still change: one of them is learnable, and the gate not frozen."""
        return self._has_choice and not self._is_frozen

    @property
    def probabilities(self) -> Tensor:
        """`[edges]` probability of each edge, given that its source is connected."""
        return self.logits.detach().sigmoid().masked_fill(~self.learnable_edges, 1.0)

    def choice(self) -> Choice:
        """The edges of evaluation mode, for `WiringBuilder.draw`."""
        usable = torch.ones_like(self.learnable_edges)
        return Choice(self.best, self.probabilities, self.learnable_edges, usable)

    @property
    def best(self) -> Tensor:
        """`[edges]` edges with a probability above one half whose source is connected."""
        return send(self._best_on_cpu(), self.logits.device)

    def seed(self, seed: int, repeat: bool = False) -> None:
        """Sample the next draws with a new generator of this seed.

        Args:
            seed: the seed.
            repeat: whether every draw begins with this seed. Then all forward passes of one
                training step draw the same for the same examples: also one that computes an
                accuracy, or one that activation checkpointing repeats.
        """
        self._generator = torch.Generator().manual_seed(seed)
        self._repeated = seed if repeat else None
        if repeat:
            self.drawn = self.asked = None  # those of an earlier step

    @torch.no_grad()
    def draw(self, batch: int) -> Tensor:
        """`[batch, edges]` the active edges of each example in the present mode."""
        return send(self.draw_on_cpu(batch), self.logits.device)

    @torch.no_grad()
    def draw_on_cpu(self, batch: int) -> Tensor:
        """As `draw`, but on the CPU whatever the device of the logits."""
        if self.training and self.sampling and self.learnable:
            if self._repeated is not None and self._generator is not None:
                self._generator.manual_seed(self._repeated)
            drawn, asked = draw_edges(
                self.topology, self.logits.cpu(), self._learnable, batch, self._generator
            )
        else:
            warm_up = self.training and self.learnable
            edges = self.topology.connected() if warm_up else self._best_on_cpu()
            drawn = edges.expand(batch, -1)
            asked = torch.zeros_like(drawn)
        if self.training:
            self.drawn, self.asked = drawn, asked
        return drawn

    def _best_on_cpu(self) -> Tensor:
        """`best` on the CPU, which frozen logits do not change any more."""
        if self._best is not None:
            return self._best
        return most_probable_edges(self.topology, self.logits.detach().cpu(), self._learnable)

    @torch.no_grad()
    def freeze(self) -> None:
        """Use the most probable architecture in training mode too; the logits stop learning."""
        self.frozen.fill_(True)
        self.logits.requires_grad_(False)
        self.logits.grad = None
        self.follow_frozen_mark()

    @torch.no_grad()
    def follow_frozen_mark(self) -> None:
        """Be frozen or not, as the tensor `frozen` says by now; keep the edges of frozen logits.

        Call it after you wrote into that tensor or into frozen logits; loading a `state_dict` does
        it by itself.
        """
        self._best = self.fixed = None
        self._is_frozen = bool(self.frozen)
        if self._is_frozen:
            self._best = self._best_on_cpu()
            self.fixed = tuple(self.topology.live(self._best[None])[0].tolist())

    @override
    def extra_repr(self) -> str:
        drawn = int(self._learnable.sum())
        return f"nodes={self.topology.nodes}, edges={self.topology.edges}, drawn={drawn}"


def find_bernoulli_gates(module: nn.Module) -> dict[str, BernoulliGate]:
    """All gates inside a module with learnable edges, by qualified name; also frozen ones.

    Example:
        >>> gate = BernoulliGate(nodes=2, source=[0], target=[1])
        >>> list(find_bernoulli_gates(nn.ModuleDict({"gate": gate})))
        ['gate']
    """
    return find_modules(module, BernoulliGate, lambda gate: gate._has_choice)


def _follow_frozen_mark(gate: nn.Module, _incompatible: Any) -> None:
    """After loading: freeze or thaw, if the saved gate was the other."""
    assert isinstance(gate, BernoulliGate)
    before = gate._is_frozen
    gate.follow_frozen_mark()
    if gate._is_frozen != before:
        gate.logits.requires_grad_(gate._has_choice and before)
