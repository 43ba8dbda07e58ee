"""Layers that compute something else than their class, and weights that are computed of others."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from typing_extensions import override


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight, as in timm."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = (self.weight - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        return self._conv_forward(input, (self.weight - mean) / (deviation + 0.01), self.bias)


class Halved(nn.Conv2d):
    """A convolution with another weight, but with the `forward` of its class."""

    @override
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 0.5 * weight, bias)


class Rectified(nn.BatchNorm2d):
    """A norm with its own ReLU, as in timm."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Centred(nn.Module):
    """A parametrization: no mean over the outputs, so that each row depends on all others."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight - 0.5 * weight.mean(0, keepdim=True)


def _scaled(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, inputs, output: output * 1.5)


def _own_convolution(module: nn.Module) -> None:
    if type(module) is nn.Conv2d:
        module.__class__ = Standardised


def _own_weight(module: nn.Module) -> None:
    if type(module) is nn.Conv2d:
        module.__class__ = Halved


def _own_norm(module: nn.Module) -> None:
    if type(module) is nn.BatchNorm2d:
        module.__class__ = Rectified


def _hooked_convolution(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        _scaled(module)


def _hooked_norm(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        _scaled(module)


OWN: dict[str, Callable[[nn.Module], None]] = {
    "convolutions of a class": _own_convolution,
    "convolutions with a weight of a class": _own_weight,
    "norms of a class": _own_norm,
    "convolutions with a hook": _hooked_convolution,
    "norms with a hook": _hooked_norm,
}

COMPUTED: dict[str, Callable[[nn.Module], object]] = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.4),
    "pruned twice": lambda layer: [
        prune.l1_unstructured(layer, "weight", amount=0.2),
        prune.random_unstructured(layer, "weight", amount=0.2),
    ],
    "older weight norm": weight_norm,
    "older spectral norm": spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "mixed rows": lambda layer: parametrize.register_parametrization(layer, "weight", Centred()),
}


def with_computed_weights(network: nn.Module, kind: str) -> nn.Module:
    """A network whose layers compute their weights, after a training step and a loaded state."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            COMPUTED[kind](layer)
    return network


def changed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another state: the tensors from which weights are computed are not what they were."""
    names = ("weight_orig", "weight_g", "original", "original0")
    return {
        name: value * 1.1 + 0.01 if name.endswith(names) else value for name, value in state.items()
    }


def sums(network: nn.Module) -> list[Tensor]:
    """What changes if a tensor of a network does."""
    return [value.detach().double().sum() for value in network.state_dict().values()]


def is_same(network: nn.Module, before: list[Tensor]) -> bool:
    """Whether these are its `sums`."""
    return all(map(torch.equal, sums(network), before))
