"""What `benchmarks.sparse_layout` measures: layers and networks with zeros in random places."""

import argparse
import re
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from typing_extensions import override

from wiring_lightning.nn import SparseConv2d, SparseLinear

_CONVOLUTION = re.compile(r"(\d+)x\1:(\d+):(\d+):(\d+)")


@dataclass(frozen=True)
class LinearCase:
    """A linear layer with as many outputs as inputs."""

    size: int

    def __str__(self) -> str:
        return f"{self.size} x {self.size}"

    def layer(self) -> nn.Linear:
        """The layer, without a bias."""
        return nn.Linear(self.size, self.size, bias=False)

    def inputs(self, batch: int) -> Tensor:
        """`[batch, size]`."""
        return torch.randn(batch, self.size)


@dataclass(frozen=True)
class ConvolutionCase:
    """A convolution with stride 1 and padding, so that the map keeps its size."""

    kernel: int
    in_channels: int
    out_channels: int
    size: int

    def __str__(self) -> str:
        place = f"{self.in_channels} -> {self.out_channels} at {self.size}x{self.size}"
        return f"{self.kernel}x{self.kernel} {place}"

    def layer(self) -> nn.Conv2d:
        """The layer, without a bias."""
        channels = self.in_channels, self.out_channels
        return nn.Conv2d(*channels, self.kernel, padding=self.kernel // 2, bias=False)

    def inputs(self, batch: int) -> Tensor:
        """`[batch, channels, size, size]`."""
        return torch.randn(batch, self.in_channels, self.size, self.size)


Case = LinearCase | ConvolutionCase


def convolution(text: str) -> ConvolutionCase:
    """The case of a text such as `1x1:512:128:28`: kernel, inputs, outputs, size of the map."""
    found = _CONVOLUTION.fullmatch(text)
    if found is None or not all(int(number) for number in found.groups()):
        raise argparse.ArgumentTypeError(
            f"a convolution is KxK:INPUTS:OUTPUTS:SIZE, such as 1x1:512:128:28, got {text!r}."
        )
    return ConvolutionCase(*map(int, found.groups()))


def keep_some(weight: Tensor, density: float) -> None:
    """Set all entries of a weight to zero but a share of `density`, chosen at random."""
    kept = torch.zeros(weight.numel())
    kept[torch.randperm(len(kept))[: round(density * len(kept))]] = 1
    weight.data *= kept.view_as(weight)


def as_sparse(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """The layer as `nn.store_sparse` may store it."""
    return SparseLinear(layer) if isinstance(layer, nn.Linear) else SparseConv2d(layer)


class ChannelsLast(nn.Module):
    """A network in the other memory format, which is often faster for dense convolutions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).to(memory_format=torch.channels_last)

    @override
    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return outputs


def sparse_network(name: str, density: float) -> nn.Module:
    """A network of torchvision in evaluation mode whose convolutions have this density each."""
    network = get_model(name, weights=None).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            keep_some(layer.weight, density)
            layer.weight.data /= density**0.5  # so that maps keep their size through the network
    return network
