"""Buffers that say how a module was built, and outlive the device `meta`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override


class Structured(nn.Module):
    """A module with tensors that only its constructor knows, such as which slots can be an edge.

    They are buffers, so they are where the module is, but they are in no `state_dict`. Nothing
    would bring their values back after `to_empty`, which gives a module on `meta` memory with
    anything in it. So the values are kept on the CPU, too, and come back whenever the module moves
    or loads.

    Example:
        >>> class Scaled(Structured):
        ...     def __init__(self, factors: list[float]) -> None:
        ...         super().__init__()
        ...         self.keep("factors", torch.tensor(factors, device="cpu"))
        >>> Scaled([2.0, 3.0]).to("meta").to_empty(device="cpu").factors
        tensor([2., 3.])
    """

    _kept: Mapping[str, Tensor] = MappingProxyType({})  # also of modules that were pickled earlier

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_follow_parameters)

    def keep(self, name: str, values: Tensor | None) -> None:
        """Register a buffer with these values, beside the module's own parameters, if it has any.

        Args:
            name: of the buffer.
            values: on any device but `meta`; `None` if they are not known, or there are none.
        """
        self.register_buffer(name, None, persistent=False)
        if values is not None:
            self._kept = {**self._kept, name: values.cpu()}
            _bring_back(self)

    @override
    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        _bring_back(self)
        return self


def _bring_back(module: Structured) -> None:
    """Put the values where the module is; the buffers' types of numbers stay."""
    own = next(module.parameters(recurse=False), None)
    for name, values in module._kept.items():
        buffer = getattr(module, name)
        beside = buffer if own is None else own
        device = torch.empty(0).device if beside is None else beside.device
        number = values.dtype if buffer is None else buffer.dtype
        setattr(module, name, values.to(device, number, copy=True))


def _follow_parameters(module: nn.Module, _incompatible: Any) -> None:
    """After loading: a `state_dict` may have brought parameters of another device."""
    assert isinstance(module, Structured)
    own = next(module.parameters(recurse=False), None)
    kept = [module.get_buffer(name) for name in module._kept]
    if own is not None and any(buffer.device != own.device for buffer in kept):
        _bring_back(module)
