"""Linear layers side by side."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from typing_extensions import override


class GroupedLinear(nn.Module):
    """One linear layer for each of several groups, computed as one batched product.

    It is a 1 x 1 convolution with groups, for inputs without height and width. Values start as
    those of `nn.Linear`.

    Shapes: `[batch, groups, in_features]` becomes `[batch, groups, out_features]`.

    Args:
        groups: number of layers.
        in_features: of each layer.
        out_features: of each layer.

    Example:
        >>> layer = GroupedLinear(3, in_features=4, out_features=2)
        >>> layer(torch.randn(5, 3, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, groups: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features))
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Every group by its own layer."""
        return torch.baddbmm(self.bias, inputs.transpose(0, 1), self.weight).transpose(0, 1)

    @torch.no_grad()
    def keep(self, kept: Sequence[int]) -> "GroupedLinear":
        """A copy with some of the groups."""
        smaller = deepcopy(self)
        for value in smaller.parameters():
            value.data = value.data[list(kept)]
        return smaller

    @override
    def extra_repr(self) -> str:
        groups, inputs, outputs = self.weight.shape
        return f"{groups} x ({inputs} -> {outputs})"
