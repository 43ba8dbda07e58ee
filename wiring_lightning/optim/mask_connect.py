"""Gradient descent on gate scores: update, clip, normalise, sample."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning.functional import normalize_scores, sample_k_distinct, seed_of_step
from wiring_lightning.nn import Gate
from wiring_lightning.optim._gate_optimizer import GateOptimizer


class GateSGD(GateOptimizer[Gate]):
    """The papers' rule for the scores of gates (MaskConnect and GateConnect, Algorithm 1).

    One step has three parts. The scores become `clip(score - lr * gradient, low, high)`, without
    momentum or weight decay. The scores of each target are scaled to sum to one. K candidates per
    target are sampled for the next forward pass. All gates are updated together.

    The sample of step n depends on `seed` and n only. So a resumed run samples what the
    uninterrupted run would, and all ranks of a distributed job sample the same. The random numbers
    are drawn on the CPU, so they are the same on every device. Entries whose
    gradient is not finite are not updated. Keep scores in float32 (with mixed precision, if
    needed): in bfloat16 small steps are rounded away.

    Args:
        gates: the gates to learn; frozen ones are skipped.
        lr: learning rate. The papers use 0.2 for ResNeXt and 0.3 for ResNet.
        normalize: write the normalised scores back, as in Algorithm 1. Otherwise they are
            normalised for sampling only, and all scores of a target drift together.
        low: lower end of the interval that scores are clipped to.
        high: upper end of that interval.
        seed: seed of the draws.

    Raises:
        ValueError: if there is no gate, the learning rate is negative, or the interval is empty.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> gate = Gate(targets=1, candidates=4, fan_in=2)
        >>> optimizer = GateSGD([gate], lr=0.1)
        >>> for _ in range(20):  # candidate 2 lowers the loss, the others raise it
        ...     loss = gate(torch.tensor([[1.0, 1.0, -1.0, 1.0]]).unsqueeze(-1)).sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> gate.scores.argmax().item()
        2
    """

    def __init__(
        self,
        gates: Iterable[Gate],
        lr: float = 0.2,
        normalize: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= low < high:
            raise ValueError(f"scores are clipped to 0 <= low < high, got [{low}, {high}].")
        settings = {"lr": lr, "normalize": normalize, "low": low, "high": high, "seed": seed}
        super().__init__(gates, "scores", {**settings, "steps": 0})
        self._rows: _Rows | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rows": None}

    @override
    def _update(self) -> None:
        gates = [gate for gate in self.learning if gate.scores.grad is not None]
        if gates:
            if self._rows is None or self._rows.gates != gates:
                self._rows = _Rows(gates)
            rows = self._rows
            scores = self._descend(rows)
            self.group["steps"] += 1
            rows.write([gate.scores for gate in gates], scores)
            rows.write([gate.active for gate in gates], self._draw(rows, scores))

    def _descend(self, rows: "_Rows") -> Tensor:
        group = self.group
        scores = rows.read([gate.scores for gate in rows.gates])
        gradient = rows.read([gate.scores.grad for gate in rows.gates], padding=0.0)
        gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        updated = (scores - group["lr"] * gradient).clamp(group["low"], group["high"])
        updated = torch.where(scores < 0, scores, updated)
        return normalize_scores(updated) if group["normalize"] else updated

    def _draw(self, rows: "_Rows", scores: Tensor) -> Tensor:
        generator = torch.Generator()
        generator.manual_seed(seed_of_step(self.group["seed"], self.group["steps"]))
        drawn = sample_k_distinct(scores, rows.fan_in, generator)
        if rows.any_real:
            drawn = torch.where(rows.real.unsqueeze(-1), scores > 0, drawn)
        return drawn


class _Rows:
    """The rows of several gates in one tensor; shorter rows are padded."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.gates = gates
        device = gates[0].scores.device
        self.targets = [gate.targets for gate in gates]
        lengths = torch.tensor([gate.candidates for gate in gates]).repeat_interleave(
            torch.tensor(self.targets)
        )
        self.shape = (len(lengths), int(lengths.max()))
        self.sizes = [gate.scores.numel() for gate in gates]
        used = torch.arange(self.shape[1]) < lengths.unsqueeze(-1)
        self.equal_lengths = bool(used.all())
        self.slots = used.flatten().nonzero().flatten().to(device)
        repeated = chain.from_iterable([gate.fan_in] * gate.targets for gate in gates)
        self.fan_in = torch.tensor(list(repeated), device=device)
        real = chain.from_iterable([gate.mode == "real"] * gate.targets for gate in gates)
        self.any_real = any(gate.mode == "real" for gate in gates)
        self.real = torch.tensor(list(real), device=device)

    def read(self, tensors: Sequence[Tensor | None], padding: float = -1.0) -> Tensor:
        """One `[rows, longest row]` tensor; slots beyond a row's end hold `padding`."""
        given = [tensor for tensor in tensors if tensor is not None]
        if self.equal_lengths:
            return torch.cat(given)
        flat = torch.cat([tensor.flatten() for tensor in given])
        padded = flat.new_full((self.shape[0] * self.shape[1],), padding)
        return padded.index_copy(0, self.slots, flat).view(self.shape)

    def write(self, tensors: Sequence[Tensor], values: Tensor) -> None:
        """Copy the rows back in place, so that compiled graphs keep reading the same memory."""
        if self.equal_lengths:
            parts = list(values.split(self.targets))
        else:
            flat = values.flatten()[self.slots].split(self.sizes)
            parts = [part.view_as(tensor) for part, tensor in zip(flat, tensors, strict=True)]
        torch._foreach_copy_(list(tensors), parts)
