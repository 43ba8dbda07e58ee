"""What a program asked of the simulated device: waits of the host, kernels, bytes."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from tests.simulated.nested import leaves

_PACKAGE = f"{Path('wiring_lightning')}/"
_SKIPPED = ("/torch/", "/tests/simulated", "/contextlib.py")

# Operations that need a result on the host, for example the size of their own output.
_WAITING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc",
    "unique_dim", "unique_consecutive", "_unique2",
}  # fmt: skip
# Kernels of an operation, where it is not one: an estimate from CUDA's libraries.
_KERNELS = {
    "bincount": 3, "convolution_backward": 2, "cumsum": 2, "index_put": 2, "index_put_": 2,
    "native_batch_norm": 2, "native_batch_norm_backward": 2, "native_group_norm": 2,
    "native_group_norm_backward": 3, "nonzero": 4, "sort": 3, "topk": 3,
}  # fmt: skip
_FREE = {
    "_assert_async", "_unsafe_view", "alias", "detach", "empty", "empty_like", "empty_strided",
    "is_pinned", "is_same_size", "lift", "lift_fresh", "new_empty", "new_empty_strided", "set_",
}  # fmt: skip
# They do not read the tensor that they get.
_WRITE_ONLY = {
    "bernoulli_", "exponential_", "fill_", "full_like", "new_full", "new_ones", "new_zeros",
    "normal_", "ones_like", "rand_like", "randn_like", "uniform_", "zero_", "zeros_like",
}  # fmt: skip
_TENSORS_PER_KERNEL = 48  # of the operations on lists of tensors


@dataclass
class Record:
    """Counts while `on`.

    Args:
        waits: how often the host waited, by the operation and the line that asked for it.
        kernels: how many kernels were started, by line.
        bytes: bytes that all kernels read and wrote.
    """

    on: bool = False
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    @contextmanager
    def recording(self) -> Iterator["Record"]:
        """Count what happens inside, from zero."""
        self.waits, self.kernels, self.bytes, self.on = Counter(), Counter(), 0, True
        try:
            yield self
        finally:
            self.on = False

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        if self.on:
            self.waits[what, calling_line()] += 1

    def run(
        self, operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any
    ) -> None:
        """An operation ran on the device; all tensors are those of the CPU."""
        name = short_name(operation)
        if not self.on or name in _FREE or _is_view(operation):
            return
        first = _tensors(args[:1])
        given = {key: value for key, value in kwargs.items() if key not in _outputs(operation)}
        read, written = _tensors((args, given)), _tensors(outputs) or first
        if name in _WRITE_ONLY:
            read = []
        elif name in ("copy_", "_foreach_copy_"):
            read = _tensors(args[1:])
        kernels = _KERNELS.get(name, 1)
        if name.startswith("_foreach"):
            kernels = -(-len(first) // _TENSORS_PER_KERNEL)
        self.kernels[calling_line()] += kernels
        self.bytes += sum(map(_size, read + written))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(values) if isinstance(leaf, Tensor)]


@cache
def short_name(operation: OpOverload) -> str:
    """`aten::add_.Tensor` -> `add_`."""
    return operation._schema.name.partition("::")[2]


def waits_by_itself(operation: OpOverload) -> bool:
    """Whether an operation on the device always makes the host wait."""
    return short_name(operation) in _WAITING


@cache
def _with_slashes(file: str) -> str:
    return Path(file).as_posix()


def calling_line() -> str:
    """File and line of the package, or else of the library, that asked for an operation."""
    frame: FrameType | None = sys._getframe(1)
    library = None
    while frame is not None:
        file = _with_slashes(frame.f_code.co_filename)
        if _PACKAGE in file:
            return f"{file.rpartition(_PACKAGE)[2]}:{frame.f_lineno}"
        if library is None and not any(part in file for part in _SKIPPED):
            library = f"{'/'.join(file.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return library or "torch"


@cache
def _is_view(operation: OpOverload) -> bool:
    schema = operation._schema
    aliases = [argument.alias_info for argument in schema.arguments]
    shares = any(alias is not None and not alias.is_write for alias in aliases)
    return shares and not schema.is_mutable


@cache
def _outputs(operation: OpOverload) -> list[str]:
    """Names of the arguments that an operation only writes to, such as `out`."""
    return [argument.name for argument in operation._schema.arguments if argument.is_out]


def _size(tensor: Tensor) -> int:
    """Bytes of memory behind a tensor; an expanded one reads its few values again and again."""
    if tensor.layout is not torch.strided:
        return 0
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
