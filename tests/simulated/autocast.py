"""CUDA's automatic mixed precision for the simulated device.

Which operations run in which precision is a list in torch; the names here are those that networks
of this package can meet.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from tests.simulated.nested import leaves, replaced
from tests.simulated_device import is_simulated, simulated_device

_LOWER = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "conv1d", "conv2d", "conv3d",
    "convolution", "einsum", "linear", "matmul", "mm", "mv",
]  # fmt: skip
_FLOAT32 = [
    "acos", "asin", "binary_cross_entropy_with_logits", "cosh", "dist", "exp", "expm1",
    "group_norm", "kl_div", "layer_norm", "log", "log10", "log1p", "log2", "mse_loss",
    "native_layer_norm", "nll_loss", "nll_loss2d", "norm.Scalar", "pow.Scalar",
    "pow.Tensor_Scalar", "pow.Tensor_Tensor", "reciprocal", "rsqrt", "sinh", "softplus", "tan",
]  # fmt: skip
_FLOAT32_RESULT = [
    "cumprod", "cumsum", "log_softmax.int", "prod", "prod.dim_int", "softmax.int", "sum",
    "sum.dim_IntList",
]  # fmt: skip
_WIDEST = [
    "addcdiv", "addcmul", "cat", "cross", "dot", "index_put", "scatter_add", "stack",
    "tensordot", "vdot",
]  # fmt: skip
_KEEPS: list[torch.library.Library] = []  # the operations go with the object

Cast = Callable[[OpOverload, tuple[Any, ...], dict[str, Any]], Any]


@cache
def simulate_autocast() -> None:
    """Make `torch.autocast("sim")` do what it does on CUDA; once for each process."""
    simulated_device()
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = torch.library.Library("aten", "IMPL")
    ways = ((_LOWER, _lower), (_FLOAT32, _float32), (_FLOAT32_RESULT, _result), (_WIDEST, _widest))
    for names, way in ways:
        for operation in map(_operation, names):
            library.impl(operation, _casting(operation, way), "AutocastPrivateUse1")
    _KEEPS.extend([everything, library])


def _operation(name: str) -> OpOverload:
    base, _, overload = name.partition(".")
    found: OpOverload = getattr(getattr(torch.ops.aten, base), overload or "default")
    return found


def _casting(operation: OpOverload, way: Cast) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        with torch._C._ExcludeDispatchKeyGuard(key):
            return way(operation, args, kwargs)

    return call


def _lower(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = _cast((args, kwargs), torch.get_autocast_dtype("sim"))
    return operation(*args, **kwargs)


def _float32(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args, kwargs = _cast((args, kwargs), torch.float32)
    return operation(*args, **kwargs)


def _result(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operation itself is asked for a float32 result."""
    if "softmax" in operation._schema.name and len(args) == 3:
        *args_, kwargs["dtype"] = args
        args = tuple(args_)
    if kwargs.get("dtype") is None and args[0].dtype in (torch.float16, torch.bfloat16):
        kwargs["dtype"] = torch.float32
    return operation(*args, **kwargs)


def _widest(operation: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    wide = any(tensor.dtype == torch.float32 for tensor in _floats((args, kwargs)))
    dtype = torch.float32 if wide else torch.get_autocast_dtype("sim")
    args, kwargs = _cast((args, kwargs), dtype)
    return operation(*args, **kwargs)


def _floats(values: Any) -> Iterator[Tensor]:
    """Tensors on the device that autocast may convert."""
    for leaf in leaves(values):
        if is_simulated(leaf) and leaf.is_floating_point() and leaf.dtype != torch.float64:
            yield leaf


def _cast(values: Any, dtype: torch.dtype) -> Any:
    changing = {id(leaf) for leaf in _floats(values) if leaf.dtype != dtype}
    return replaced(values, lambda leaf: leaf.to(dtype) if id(leaf) in changing else leaf)
