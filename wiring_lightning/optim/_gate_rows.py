"""The rows of several gates in one tensor, so that all gates are updated together."""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from wiring_lightning.nn import Gate


class GateRows:
    """Reads the targets of several gates as rows of one tensor; shorter rows are padded.

    Args:
        gates: the gates, on one device.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = gates
        self.device = gates[0].scores.device
        self.targets = [gate.targets for gate in gates]
        lengths = torch.tensor(self.repeat(gate.candidates for gate in gates), device="cpu")
        self.shape = (len(lengths), int(lengths.max()))
        self.sizes = [gate.scores.numel() for gate in gates]
        used = torch.arange(self.shape[1], device="cpu") < lengths.unsqueeze(-1)
        self.equal_lengths = bool(used.all())
        self.slots = used.flatten().nonzero().flatten().to(self.device)
        self.fan_in = torch.tensor(self.repeat(gate.fan_in for gate in gates), device=self.device)
        real = self.repeat(gate.mode == "real" for gate in gates)
        self.any_real = any(real)
        self.real = torch.tensor(real, device=self.device)
        most = max(self.targets)
        places = [gate * most + row for gate, n in enumerate(self.targets) for row in range(n)]
        self._blocks = (len(gates), most, self.shape[1])
        full = len(places) == len(gates) * most
        self._places = None if full else torch.tensor(places, device="cpu")

    def repeat(self, values: Iterable[int | float | bool]) -> list[int | float | bool]:
        """One value for each gate, repeated for each of its targets."""
        each = zip(values, self.targets, strict=True)
        return list(chain.from_iterable([value] * count for value, count in each))

    def read(self, tensors: Sequence[Tensor | None], padding: float = -1.0) -> Tensor:
        """One `[rows, longest row]` tensor; slots beyond a row's end hold `padding`."""
        given = [tensor for tensor in tensors if tensor is not None]
        if self.equal_lengths:
            return torch.cat(given)
        flat = torch.cat([tensor.flatten() for tensor in given])
        padded = flat.new_full((self.shape[0] * self.shape[1],), padding)
        return padded.index_copy(0, self.slots, flat).view(self.shape)

    def write(self, tensors: Sequence[Tensor | None], values: Tensor) -> None:
        """Copy the rows back in place, so that compiled graphs keep reading the same memory.

        Args:
            tensors: one for each gate; `None` for a gate that keeps what it has.
            values: the rows of all gates.
        """
        if self.equal_lengths:
            parts = values.split(self.targets)
        else:
            parts = values.flatten()[self.slots].split(self.sizes)
        pairs = [
            (tensor, part.view_as(tensor))
            for tensor, part in zip(tensors, parts, strict=True)
            if tensor is not None
        ]
        if pairs:
            into, new = zip(*pairs, strict=True)
            torch._foreach_copy_(list(into), list(new))

    def to_blocks(self, values: Tensor) -> Tensor:
        """`[rows, longest row]` -> `[gates, most targets, longest row]`, padded with -1."""
        if self._places is None:
            return values.view(self._blocks)
        gates, most, width = self._blocks
        padded = values.new_full((gates * most, width), -1.0)
        return padded.index_copy(0, self._on_device(), values).view(self._blocks)

    def from_blocks(self, values: Tensor) -> Tensor:
        """The opposite of `to_blocks`."""
        rows = values.flatten(0, 1)
        return rows if self._places is None else rows.index_select(0, self._on_device())

    def _on_device(self) -> Tensor:
        assert self._places is not None
        self._places = self._places.to(self.device)
        return self._places
