"""The device `sim:0`: its tensors are in CPU memory, but behave as if they were not.

What a GPU refuses is refused here: operations on tensors of different devices, a CPU generator for
a draw on the device, `numpy()`. `RECORD` counts what a GPU would do. There is no second device, and
numbers are those of the CPU. It needs private parts of torch (`unavailable`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tests.simulated.nested import replaced
from tests.simulated.record import Record, calling_line, short_name, waits_by_itself

RECORD = Record()
CPU = torch.device("cpu")
_KEY = torch._C.DispatchKey.PrivateUse1
aten = torch.ops.aten
_COPIES = {
    aten.copy_.default, aten._to_copy.default, aten._copy_from.default, aten._foreach_copy_.default
}  # fmt: skip
_INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor,
    aten._index_put_impl_.default,
}  # fmt: skip
# They change the shape of their argument, which the tensor on the device has to follow.
_RESHAPING = {"as_strided_", "resize_", "resize_as_", "set_", "squeeze_", "t_", "transpose_",
              "unsqueeze_"}  # fmt: skip


# CUDA has no deterministic kernel for these: see `torch.use_deterministic_algorithms`.
_RANDOM_ORDER = {
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "grid_sampler_2d_backward",
    "histc", "kthvalue", "nll_loss2d_forward", "put_", "reflection_pad2d_backward",
}  # fmt: skip


class DeviceError(RuntimeError):
    """Something that a GPU refuses."""


def unavailable() -> str | None:
    """Why the device cannot be simulated with this version of torch; `None` if it can."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} has no backend in Python"
    try:
        simulated_device()
        with simulated():
            torch.zeros(2, device="sim").add_(1)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} has other private parts: {error}"
    return None


@cache
def simulated_device() -> torch.device:
    """Register the device, once for each process."""
    backend_registration._setup_privateuseone_for_python_backend("sim", backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    # `torch.tensor(..., device="sim")` calls these two behind the back of every mode.
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("copy_", _copy, "PrivateUse1")
    _LIBRARIES.append(library)
    torch.serialization.add_safe_globals([_rebuild])
    optimizer = import_module("torch.optim.optimizer")  # hidden by a function of this name
    optimizer._foreach_supported_types.append(SimulatedTensor)
    return torch.device("sim", 0)


@contextmanager
def simulated() -> Iterator[torch.device]:
    """Inside, tensors can be made on and moved to the device."""
    device, generator = simulated_device(), torch.Generator
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters keep their identity
    torch.Generator = _Generators  # type: ignore[misc]
    try:
        with _Factories():
            yield device
    finally:
        torch.Generator = generator  # type: ignore[misc]
        torch.__future__.set_swap_module_params_on_conversion(swapping)


class SimulatedTensor(Tensor):
    """A tensor on the device; it shares the memory of a tensor on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "SimulatedTensor":
        return torch.Tensor._make_subclass(
            cls, on_cpu, False, dispatch_device=True, device_for_backend_keys=simulated_device()
        )

    @classmethod
    def __torch_dispatch__(
        cls,
        operation: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _run(operation, args, kwargs or {})

    def __reduce_ex__(self, _: Any) -> Any:
        return _rebuild, (on_cpu(self).clone(), self.requires_grad, is_parameter(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> "SimulatedTensor":
        if id(self) not in memo:
            memo[id(self)] = _rebuild(on_cpu(self).clone(), self.requires_grad, is_parameter(self))
        return memo[id(self)]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        # Torch's own takes as long as an operation, and is asked for more often than all others.
        return simulated_device() if is_simulated(self) else CPU

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor on sim:0 to numpy; use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"{on_cpu(self)!r} on sim:0"


def is_simulated(value: object) -> bool:
    """Whether a value is a tensor on the device; one that was moved back keeps its class."""
    return isinstance(value, SimulatedTensor) and torch._C._dispatch_keys(value).has(_KEY)


def on_cpu(tensor: Tensor) -> Tensor:
    """The memory of a tensor on the device as a tensor on the CPU; nothing waits."""
    memory, empty = Tensor.untyped_storage(tensor), torch.empty(0, dtype=tensor.dtype, device=CPU)
    return empty.set_(memory, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())


def is_parameter(tensor: Tensor) -> bool:
    return bool(getattr(tensor, "_is_param", False))


def _rebuild(memory: Tensor, requires_grad: bool, parameter: bool) -> SimulatedTensor:
    tensor = SimulatedTensor(memory)
    if parameter:
        tensor._is_param = True
    return tensor.requires_grad_(requires_grad)


def _run(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Refuse or compute one operation, of which some tensor is or will be on the device."""
    if operation in _ABOUT_TENSORS:
        return _ABOUT_TENSORS[operation]()
    # By their identity; they and their memories must stay alive.
    memories: dict[int, tuple[Tensor, Tensor]] = {}
    others: list[Tensor] = []

    def unwrap(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) in memories:
                return memories[id(value)][0]
            if not is_simulated(value):
                others.append(value)
                return value
            memory = on_cpu(value)
            memories[id(value)] = memory, value
            return memory
        return CPU if isinstance(value, torch.device) and value.type == "sim" else value

    plain_args, plain_kwargs = replaced(args, unwrap), replaced(kwargs, unwrap)
    here, wanted = bool(memories), kwargs.get("device")
    to_device = here if wanted is None else torch.device(wanted).type == "sim"
    _refuse(operation, args, here, others, to_device, kwargs.get("generator"))
    if RECORD.on:
        _note_waits(operation, args, kwargs, here, to_device)
    moves = operation is aten._to_copy.default and here != to_device
    if moves:
        plain_kwargs.pop("non_blocking", None)
    outputs = operation(*plain_args, **plain_kwargs)
    if moves and outputs.data_ptr() == plain_args[0].data_ptr():
        outputs = outputs.clone()
    if here and RECORD.on:
        RECORD.run(operation, plain_args, plain_kwargs, outputs)
    if short_name(operation) in _RESHAPING and is_simulated(args[0]):
        args[0].data = SimulatedTensor(plain_args[0])
        return args[0]
    known = {id(memory): tensor for memory, tensor in memories.values()}
    in_place = operation in _COPIES and wanted is None and operation is not aten._to_copy.default

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or is_simulated(value):
            return value
        if id(value) in known:
            return known[id(value)]
        return SimulatedTensor(value) if to_device and not in_place else value

    return replaced(outputs, wrap)


def _refuse(
    operation: OpOverload,
    args: Sequence[Any],
    here: bool,
    others: Sequence[Tensor],
    to_device: bool,
    generator: torch.Generator | None,
) -> None:
    """Raise an error for what a GPU refuses, with tensors on the device and others."""
    name = short_name(operation)
    if here and operation in _INDEXING and not is_simulated(args[0]):
        raise DeviceError(f"{name}: indices on sim:0 for a CPU tensor, at {calling_line()}")
    mixed = here and any(other.dim() for other in others)
    if mixed and operation not in _COPIES and operation not in _INDEXING:
        raise DeviceError(f"{name}: tensors on sim:0 and on the CPU, at {calling_line()}")
    any_order = name in _RANDOM_ORDER or (name == "cumsum" and args[0].is_floating_point())
    if here and any_order and torch.are_deterministic_algorithms_enabled():
        raise DeviceError(f"{name}: has no deterministic kernel, at {calling_line()}")
    if generator is not None and (generator._cdata in _Generators.made) != to_device:
        raise DeviceError(f"{name}: generator of another device, at {calling_line()}")


def _note_waits(
    operation: OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    here: bool,
    to_device: bool,
) -> None:
    """Record whether the host has to wait for this operation."""
    name = short_name(operation)
    if here and waits_by_itself(operation):
        RECORD.wait(name)
    elif here and name == "repeat_interleave" and kwargs.get("output_size") is None:
        RECORD.wait("repeat_interleave without output_size")
    elif here and operation in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            RECORD.wait(f"{name} with a mask")
        elif any(index.dim() and not is_simulated(index) for index in indices):
            RECORD.wait(f"{name} with indices on the CPU")
    elif operation is aten.copy_.default and is_simulated(args[0]) != is_simulated(args[1]):
        blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if blocks:
            RECORD.wait("copy to the device" if is_simulated(args[0]) else "copy to the CPU")
    elif operation is aten._to_copy.default and here != to_device:
        blocks = not kwargs.get("non_blocking", False)
        if blocks:
            RECORD.wait("copy to the device" if to_device else "copy to the CPU")


class _Factories(TorchDispatchMode):
    """Sees operations without a tensor on the device, some of which make one."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's wrapper takes longer than an operation

    def __torch_dispatch__(
        self,
        operation: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if operation in _ABOUT_TENSORS:
            return _ABOUT_TENSORS[operation]() if is_simulated(args[0]) else operation(*args)
        kwargs = kwargs or {}
        generator, wanted = kwargs.get("generator"), kwargs.get("device")
        made_here = generator is not None and generator._cdata in _Generators.made
        to_device = wanted is not None and torch.device(wanted).type == "sim"
        if types or made_here or to_device:  # types: classes of arguments, such as ours
            return _run(operation, args, kwargs)
        return operation(*args, **kwargs)


class _KnowsDevice(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, torch._C.Generator)


class _Generators(metaclass=_KnowsDevice):
    """Stands for `torch.Generator`, and knows which generators are on the device."""

    made: dict[int, torch.Generator] = {}  # noqa: RUF012

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        generator = torch._C.Generator()
        if torch.device(device).type == "sim":
            cls.made[generator._cdata] = generator
        return generator


# What asks about a tensor, and computes nothing.
_ABOUT_TENSORS: dict[Any, Callable[[], Any]] = {
    torch.ops.prim.device.default: simulated_device,
    aten.is_pinned.default: lambda: False,
    aten.is_pinned: lambda: False,
}
_LIBRARIES: list[torch.library.Library] = []  # the operations go with the object


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype, device=CPU))


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if is_simulated(target) and not is_simulated(source):
        RECORD.wait("torch.tensor on the device")
    plain = [on_cpu(one) if is_simulated(one) else one for one in (target, source)]
    plain[0].copy_(plain[1])
    return target


class _Module(getattr(backend_registration, "_DummyBackendModule", object)):  # type: ignore[misc]
    """What torch asks the module `torch.sim` for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, *_: Any) -> None:
        RECORD.wait("synchronize")

    def set_device(self, *_: Any) -> None:
        """There is one device."""

    def device(self, *_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None:
        """Draws come from the CPU's generator."""
