"""The connections of a gate whose wiring is fixed."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import gated_sum, rectified_gated_sum
from wiring_lightning.wiring import Choice


class Selection(nn.Module):
    """A gate with a fixed wiring, for compact networks.

    Where every target reads one source, with weight 1, the sources are gathered, without a sum.

    Args:
        weights: `[targets, sources]` the factor of each source.
        score: `[targets, sources]` the last scores of the gate.
    """

    matrix: Tensor
    score: Tensor
    only_source: Tensor | None
    # The different sums that targets read, as `branch_chain.c` takes them: how many there are, of
    # each how many sources it has and which; the number of targets, and which sum each one reads.
    sums: tuple[int, ...]
    factors: tuple[float, ...]  # of the sources of all sums
    _binary: bool
    _seen: tuple[Tensor, int]  # the weights that all these are from, and their version

    def __init__(self, weights: Tensor, score: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", weights.detach().clone())
        self.register_buffer("score", score.detach().clone())
        self.register_buffer("only_source", None, persistent=False)
        self.register_load_state_dict_post_hook(_look_at_matrix)
        _look_at_matrix(self)

    def selection(self) -> "Selection":
        """This layer itself: its wiring is fixed already, as that of `Gate.selection`."""
        return self

    def keep(self, targets: Sequence[int], sources: Sequence[int]) -> "Selection":
        """The selection restricted to some targets and some sources."""
        rows, columns = list(targets), list(sources)
        return Selection(self.matrix[rows][:, columns], self.score[rows][:, columns])

    def choice(self) -> Choice:
        """The edges, for a `WiringBuilder`; none is learnable."""
        learnable = torch.tensor(False, device="cpu")
        return Choice(self.matrix != 0, self.score, learnable, self.score >= 0)

    @override
    def forward(self, sources: Tensor) -> Tensor:
        """`[batch, sources, *features]` -> `[batch, targets, *features]`."""
        if self.is_as_seen and self.only_source is not None:
            return sources.index_select(1, self.only_source)
        return gated_sum(self.weights(), sources)

    def rectified(self, sources: Tensor) -> Tensor:
        """The ReLU of the sums, `[batch, sources, *features]` -> `[batch, targets, *features]`."""
        if self.is_as_seen and self.only_source is not None:
            return self(sources).relu_()
        summed = rectified_gated_sum(self.weights(), sources.flatten(2))
        return summed.unflatten(2, sources.shape[2:])

    @property
    def binary(self) -> bool:
        """Whether every weight is known to be 0 or 1."""
        return self.is_as_seen and self._binary

    @property
    def is_as_seen(self) -> bool:
        """Whether the weights are those from which `only_source` and `sums` were made.

        They are others inside of `torch.func.functional_call`. After a change in place, as by DDP,
        which writes the same numbers, they are looked at again on a CPU. Elsewhere that would wait
        for the device. A compiled network takes a change in place for no change: load other weights
        with `load_state_dict`.
        """
        if torch.compiler.is_compiling():
            return True
        seen, version = self._seen
        changed = seen is self.matrix and version != _version_of(self.matrix)
        if changed and self.matrix.device.type == "cpu":
            _look_at_matrix(self)
            return True
        return seen is self.matrix and not changed

    @property
    def reads_everything(self) -> bool:
        """Whether every target reads every source, with weight 1."""
        return bool((self.matrix == 1).all())

    @property
    def reads_only_the_one_before(self) -> bool:
        """Whether each target reads the source of its own number, with weight 1."""
        own = self.matrix
        return torch.equal(own, torch.eye(*own.shape, dtype=own.dtype, device=own.device))

    def weights(self) -> Tensor:
        """`[targets, sources]` the factor of each source."""
        return self.matrix

    @override
    def extra_repr(self) -> str:
        return f"{self.matrix.shape[0]} x {self.matrix.shape[1]}"

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        known, dtype = self.is_as_seen, self.matrix.dtype
        super()._apply(fn, recurse)
        if self.matrix.dtype != dtype and self.matrix.device.type != "meta":
            _look_at_matrix(self)  # the weights may be rounded
        elif known:
            self._seen = self.matrix, _version_of(self.matrix)
        return self

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.matrix.device.type != "meta":
            _look_at_matrix(self)  # the matrix of a copy has a version of its own


def _version_of(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _look_at_matrix(selection: nn.Module, _incompatible: Any = None) -> None:
    """What the weights allow: at first, and after others are loaded."""
    assert isinstance(selection, Selection)
    weights = selection.matrix
    selection._seen = weights, _version_of(weights)
    selection._binary = bool(((weights == 0) | (weights == 1)).all())
    single = selection._binary and bool((weights.sum(1) == 1).all())
    selection.only_source = weights.argmax(1) if single else None
    rows = [{i: factor for i, factor in enumerate(row) if factor} for row in weights.tolist()]
    sums = [row for index, row in enumerate(rows) if row not in rows[:index]]
    sources = [number for terms in sums for number in (len(terms), *terms)]
    # Tuples, since a compiled graph looks at each number of a list at every call.
    selection.sums = (len(sums), *sources, len(rows), *(sums.index(row) for row in rows))
    selection.factors = tuple(factor for terms in sums for factor in terms.values())
