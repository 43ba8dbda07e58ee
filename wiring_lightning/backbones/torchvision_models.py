"""The networks of torchvision, by name: a config's `torchvision:resnet18`.

Those for classification and segmentation; `in_chans` gives images another number of channels.

Example:
    >>> from wiring_lightning.backbones.torchvision_models import resnet18
    >>> resnet18(num_classes=10, in_chans=1).conv1
    Conv2d(1, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3), bias=False)
"""

from collections.abc import Sequence
from enum import Enum
from functools import cache
from inspect import isclass
from typing import Any, get_args

import torch
import torchvision
from torch import nn
from torchvision.models._api import WeightsEnum

from wiring_lightning.backbones._builders import (
    Build,
    arguments_of,
    named_parameters,
    return_class,
    unknown_name,
    with_signature,
)
from wiring_lightning.backbones._downloads import loading

_CHANNELS = 3  # that torchvision's networks are made for


def names() -> Sequence[str]:
    """The names of all networks for classification and segmentation."""
    models = torchvision.models
    return [
        name for part in (models, models.segmentation) for name in models.list_models(module=part)
    ]


@cache
def builder(name: str) -> Build:
    """The function that builds a network of torchvision from keyword arguments.

    It takes the arguments of torchvision's function and of the network's class, and `in_chans`.
    Weights are downloaded only if `weights` or `weights_backbone` is given.

    Args:
        name: such as `"resnet18"`.

    Raises:
        AttributeError: if torchvision has no such network; the message names near ones.
    """
    if name not in names():
        raise AttributeError(unknown_name("torchvision", name, names()))
    entry = torchvision.models.get_model_builder(name)
    own = {one.name: one.annotation for one in named_parameters(entry)}
    weights = [key for key in own if key.startswith("weights")]
    enums = {key: kind for key in weights for kind in get_args(own[key]) if _is_enum(kind)}
    types = {**own, **dict.fromkeys(weights, str)}
    if "num_classes" not in own and (cls := return_class(entry)) is not None:
        types |= {key: one.annotation for key, one in arguments_of(cls).items()}

    def build(in_chans: int = _CHANNELS, **arguments: Any) -> nn.Module:
        for key in enums.keys() & arguments.keys():
            _check_weights(key, arguments[key], enums[key])
        with loading(
            get_state_dict=(WeightsEnum, lambda *_, **__: {}),
            load_state_dict=(nn.Module, lambda *_, **__: None),
        ):
            network: nn.Module = entry(**{**dict.fromkeys(weights), **arguments})
        if in_chans != _CHANNELS:
            _take_channels(network, in_chans)
        return network

    return with_signature((__name__, name), build, {**types, "in_chans": int})


def _is_enum(kind: Any) -> bool:
    return isclass(kind) and issubclass(kind, Enum)


def _check_weights(key: str, given: Any, enum: type[Enum]) -> None:
    """Name the weights that there are; torchvision itself repeats only the wrong name."""
    known = enum.__members__
    if isinstance(given, str) and given.removeprefix(f"{enum.__name__}.") not in known:
        raise ValueError(f"{key} must be one of {', '.join(known)}, got {given!r}")


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replace the layer that reads the images by one for another number of channels.

    Its weights are drawn with the mean and the deviation of those that the network gave the layer,
    which are not those of torch. Its bias stays.
    """
    name, first = next(
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    if first.in_channels != _CHANNELS or getattr(network, "transform_input", False):
        raise ValueError(f"in_chans must be {_CHANNELS}: the images are normalised inside")
    parent, _, last = name.rpartition(".")
    settings = {
        key: getattr(first, key)
        for key in ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
                    "padding_mode")
    }  # fmt: skip
    layer = nn.Conv2d(channels, **settings, bias=first.bias is not None)
    with torch.no_grad():
        layer.weight.normal_().mul_(first.weight.std()).add_(first.weight.mean())
    layer.bias = first.bias
    setattr(network.get_submodule(parent), last, layer)


def __getattr__(name: str) -> Build:
    if name.startswith("_"):  # what Python itself looks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return builder(name)
