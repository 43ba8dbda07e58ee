"""The shapes of what the layers of a chain return."""

from collections.abc import Sequence
from copy import copy
from inspect import signature
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Shape = tuple[int, ...]

# Layers whose shapes are computed here; what is inside of them, such as the parametrization of a
# weight, is no part of a chain.
COMPUTED = (
    nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle,
)  # fmt: skip

# Files of torch whose layers, and classes made of these, return the shape that they get, but for
# GLU.
_KEEPING = {
    f"torch.nn.modules.{name}"
    for name in ("activation", "batchnorm", "channelshuffle", "dropout", "instancenorm",
                 "normalization")
}  # fmt: skip


_PACKAGE = f"{__name__.partition('.')[0]}."
_COMPUTATIONS = "forward", "_conv_forward"  # the last is what torch's convolutions call


def first_shape(layers: Sequence[nn.Module], side: int) -> Shape:
    """`[2, channels, side, side]`: two images, as the first layer with channels reads them."""
    channels = (getattr(layer, "in_channels", None) for layer in layers)
    return 2, next((count for count in channels if isinstance(count, int)), 1), side, side


def shape_after(layer: nn.Module, shape: Shape) -> Shape:
    """The shape of what a layer of a chain returns for an input of a shape.

    The layers of torch that are used most are computed. Any other one, also a subclass of these
    with a `forward` of its own, answers a tensor without memory, and stays as it was. Modules with
    others inside are passed over, because these are links of the chain, and so are what takes more
    than one input and a layer with `uncounted = True`.

    Returns:
        The shape; empty if it is not known.

    Example:
        >>> shape_after(nn.Conv2d(3, 8, 3, stride=2), (2, 3, 9, 11))
        (2, 8, 4, 5)
        >>> shape_after(nn.ZeroPad2d(1), (2, 8, 4, 5)), shape_after(nn.Flatten(), (2, 8, 4, 5))
        ((2, 8, 6, 7), (2, 160))
    """
    if isinstance(layer, nn.Linear) and len(shape) not in (2, 3):
        return shape  # images can have their channels anywhere
    if isinstance(layer, COMPUTED) and not _computes_as_torch(layer):
        return _measured(layer, shape) if shape else ()
    if isinstance(layer, nn.Linear):
        return (*shape[:-1], layer.out_features)
    if isinstance(layer, COMPUTED):
        return _computed(layer, shape) if len(shape) == 4 else ()
    if not shape or not _may_change(layer):
        return shape
    return _measured(layer, shape)


def _computes_as_torch(layer: nn.Module) -> bool:
    """Whether a layer of `COMPUTED` has the `forward` of torch's class, or one of this package."""
    if type(layer).__module__.startswith(_PACKAGE):  # with the same sizes, and often asked for
        return True
    kind = next(kind for kind in COMPUTED if isinstance(layer, kind))
    own = (getattr(type(layer), name, None) for name in _COMPUTATIONS)
    torchs = (getattr(kind, name, None) for name in _COMPUTATIONS)
    return all(map(is_, own, torchs)) and not vars(layer).keys() & set(_COMPUTATIONS)


def _may_change(layer: nn.Module) -> bool:
    """Whether a layer is a link of a chain that can return another shape."""
    kind = type(layer)
    if getattr(layer, "uncounted", False):
        return False
    if any(layer.children()) or kind.forward is nn.Module.forward or kind is nn.Identity:
        return False
    try:
        signature(layer.forward).bind(None)
    except (TypeError, ValueError):  # it takes no input, or several: or nobody knows
        return False
    keeps = any(base.__module__ in _KEEPING for base in kind.__mro__)
    return not keeps or isinstance(layer, nn.GLU)


def _measured(layer: nn.Module, shape: Shape) -> Shape:
    """The shape of the answer to a tensor without memory; empty if there is none."""
    try:
        called = _Called(copy(layer))  # which may remember what it has seen
        state = {
            name: tensor.detach().to("meta")
            for name, tensor in chain(called.named_parameters(), called.named_buffers())
        }
        types = (tensor.dtype for tensor in state.values() if tensor.is_floating_point())
        images = torch.empty(shape, dtype=next(types, None), device="meta")
        with torch.no_grad(), torch.random.fork_rng([]):
            answer = functional_call(called, state, (images,))
    except Exception:  # of any kind: the layer is not ours
        return ()
    return tuple(answer.shape) if isinstance(answer, Tensor) else ()


class _Called(nn.Module):
    """Calls `forward` of a layer without its hooks, which are for real inputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Any:
        return self.layer.forward(images)


def _computed(layer: nn.Module, shape: Shape) -> Shape:
    """The shape of what a layer of `COMPUTED` returns for images."""
    batch, channels, height, width = shape
    if isinstance(layer, nn.PixelShuffle):
        scale = layer.upscale_factor
        return batch, channels // scale**2, height * scale, width * scale
    if isinstance(layer, nn.PixelUnshuffle):
        scale = layer.downscale_factor
        return batch, channels * scale**2, height // scale, width // scale
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        channels = layer.out_channels
    return batch, channels, _side_after(layer, 0, height), _side_after(layer, 1, width)


def _side_after(layer: nn.Module, axis: int, side: int) -> int:
    """The height (axis 0) or width (axis 1) of what a layer returns."""
    if isinstance(layer, nn.Upsample):
        if layer.size is not None:
            return int(_of_axis(layer.size, axis))
        return int(side * _of_axis(layer.scale_factor, axis))
    if isinstance(layer, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        given = _of_axis(layer.output_size, axis)
        return side if given is None else given
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d | nn.AvgPool2d)
    if layer.padding == "same":
        return side
    padding = 0 if layer.padding == "valid" else _of_axis(layer.padding, axis)
    stride = _of_axis(layer.stride, axis)
    reach = _of_axis(getattr(layer, "dilation", 1), axis) * (_of_axis(layer.kernel_size, axis) - 1)
    if isinstance(layer, nn.ConvTranspose2d):
        more = _of_axis(layer.output_padding, axis)
        return int((side - 1) * stride - 2 * padding + reach + more + 1)
    rest = side + 2 * padding - reach - 1
    if getattr(layer, "ceil_mode", False):
        rest += stride - 1
        rest -= stride * (rest // stride * stride >= side + padding)  # windows begin in the image
    return max(int(rest // stride) + 1, 0)


def _of_axis(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, tuple | list) else value
