"""A module of parallel bottleneck branches, each with its own input."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional import fold_batch_norm
from wiring_lightning.nn.as_made import convolves
from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.folding import fold_pair
from wiring_lightning.nn.hooks import computes_as
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.wiring import count_multiply_adds, count_parameters

Identity = Literal["mean", "sum"]

# Layers whose channels are split over the branches; the projection is shared by all.
_PER_BRANCH = ("reduce", "reduce_norm", "spatial", "spatial_norm", "expand", "expand_norm")


class Branches(nn.Module):
    """Residual bottleneck branches computed side by side (GateConnect, Section 2.1 and Table 5).

    Every branch is 1 x 1, 3 x 3, 1 x 1 with a batch norm after each convolution. Branch j computes
    `F_j(x_j) + s * S(x_j)`. `S` is the identity, or one projection for all branches where the width
    or the resolution changes. With `s = 1 / K` a target that sums K branches counts the identity
    once. With `merge` the output is the sum of the branches, as in a plain ResNeXt; their separate
    outputs are then never written to memory.

    Args:
        branches: number of branches C.
        in_channels: channels of every branch's input.
        width: channels inside the bottleneck of one branch.
        out_channels: channels of every branch's output.
        stride: of the 3 x 3 convolution and of the projection.
        shared_input: whether all branches read the same input.
        merge: whether to sum the branches.
        identity_scale: `s`, the factor of the identity in every branch.

    Shapes: `[batch, 1 or branches, in, height, width]` becomes
    `[batch, 1 or branches, out, height / stride, width / stride]`; it is 1 with `shared_input` and
    with `merge`.

    Example:
        >>> block = Branches(8, in_channels=16, width=4, out_channels=64, shared_input=True)
        >>> block(torch.randn(2, 1, 16, 8, 8)).shape
        torch.Size([2, 8, 64, 8, 8])
    """

    def __init__(
        self,
        branches: int,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int = 1,
        shared_input: bool = False,
        merge: bool = False,
        identity_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.branches = branches
        self.in_channels = in_channels
        self.width = width
        self.out_channels = out_channels
        self.stride = stride
        self.shared_input = shared_input
        self.merge = merge
        self.identity_scale = identity_scale
        inner, outer = branches * width, branches * out_channels
        if shared_input:
            self.reduce = PointwiseConv2d(in_channels, inner)
        else:
            self.reduce = PointwiseConv2d(branches * in_channels, inner, groups=branches)
        self.reduce_norm = nn.BatchNorm2d(inner)
        self.spatial = nn.Conv2d(
            inner, inner, 3, stride=stride, padding=1, groups=branches, bias=False
        )
        self.spatial_norm = nn.BatchNorm2d(inner)
        self.expand = PointwiseConv2d(inner, outer, groups=branches)
        self.expand_norm = nn.BatchNorm2d(outer)
        self.projection: nn.Module | None = None
        if in_channels != out_channels or stride != 1:
            self.projection = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        for conv in (self.reduce, self.spatial, self.expand):
            # He initialisation (fan-out) of every branch as a convolution of its own.
            fan_out = conv.weight[0, 0].numel() * conv.out_channels / branches
            nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Compute all branches, and their sum with `merge`."""
        hidden = self.bottleneck(self.reduced(inputs.flatten(1, 2)))
        identity = self.identity(inputs)
        if self.merge:
            if identity.shape[1] > 1:
                identity = identity.sum(1, keepdim=True)
            return self.merged(hidden, identity)
        height, width = hidden.shape[-2:]
        outputs = self._separate(hidden, identity.flatten(3))
        return outputs.unflatten(3, (height, width))

    def reduced(self, inputs: Tensor) -> Tensor:
        """What the 3 x 3 convolutions read, `[batch, branches * width, height, width]`.

        Args:
            inputs: `[batch, in, height, width]`, with the channels of all branches' inputs.
        """
        return functional.relu(self.reduce_norm(self.reduce(inputs)), inplace=True)

    def bottleneck(self, reduced: Tensor) -> Tensor:
        """The 3 x 3 convolutions: what the branches expand."""
        return functional.relu(self.spatial_norm(self.spatial(reduced)), inplace=True)

    def keep(self, kept: Sequence[int]) -> "Branches":
        """A copy with some of the branches, in the given order, that computes the same for them."""
        if list(kept) == list(range(self.branches)):
            return deepcopy(self)
        layers = {name: self.get_submodule(name) for name in _PER_BRANCH}
        # The memo keeps `deepcopy` from copying these layers, which are replaced below.
        smaller = deepcopy(self, {id(layer): layer for layer in layers.values()})
        smaller.branches = len(kept)
        if self.merge and self.shared_input:
            # The sum counts a shared identity once per branch; keep its total weight.
            smaller.identity_scale *= self.branches / len(kept)
        for name, layer in layers.items():
            size = self.out_channels if name.startswith("expand") else self.width
            channels = torch.arange(self.branches * size, device="cpu").view(self.branches, size)
            setattr(smaller, name, select_channels(layer, channels[list(kept)].flatten()))
        return smaller

    @property
    def branch_parameters(self) -> int:
        """Parameters of one branch."""
        return count_parameters(*map(self.get_submodule, _PER_BRANCH)) // self.branches

    @property
    def shared_parameters(self) -> int:
        """Parameters that all branches share: the projection, and the bias of a merged sum."""
        own = count_parameters(*map(self.get_submodule, _PER_BRANCH)) % self.branches
        return own + (count_parameters(self.projection) if self.projection else 0)

    def multiply_adds(self, side: int) -> tuple[int, int]:
        """Multiply-adds of one branch and of shared layers, for one example of `side` x `side`."""
        chain = self.reduce, self.spatial, self.expand
        branch = count_multiply_adds(*chain, side=side) // self.branches
        projection = count_multiply_adds(self.projection, side=side) if self.projection else 0
        if self.shared_input:
            return branch, projection
        return branch + projection, 0

    def fold_batch_norm(self) -> None:
        """Fold all batch norms into the convolutions before them, for inference."""
        self.reduce, self.reduce_norm = fold_pair(self.reduce, self.reduce_norm)
        self.spatial, self.spatial_norm = fold_pair(self.spatial, self.spatial_norm)
        self.expand, self.expand_norm = fold_pair(self.expand, self.expand_norm)
        if not self.merge or not computes_as(nn.Identity, self.expand_norm):
            return
        grouped = self.expand.groups == self.branches  # not merged already
        if grouped and self.can_fold_expansion and self.expand.bias is not None:
            summed = PointwiseConv2d(self.branches * self.width, self.out_channels, bias=True)
            summed.weight = nn.Parameter(_summed(self.expand.matrices).detach())
            summed.bias = nn.Parameter(self.expand.bias.detach().view(self.branches, -1).sum(0))
            self.expand = summed.eval()

    def merge_branches(self) -> None:
        """From here on give the sum of the branches, for readers that all read all of them."""
        self.merge = True

    def share_input(self) -> None:
        """From here on read one input with all branches."""
        self.shared_input = True
        self.reduce.groups, self.reduce.in_channels = 1, self.in_channels

    def identity(self, inputs: Tensor) -> Tensor:
        """`S(x)` of every input, without the factor."""
        if self.projection is None:
            return inputs
        images = inputs.flatten(0, 1)
        if self.training or not self._has_plain_projection():
            projected: Tensor = self.projection(images)
            return projected.unflatten(0, inputs.shape[:2])
        # Taking every n-th position first is faster than a convolution that strides.
        images = images[..., :: self.stride, :: self.stride]
        weight, bias = self.projection_weights()
        weight = weight.flatten(1).to(images.dtype).expand(images.shape[0], -1, -1)
        projected = torch.bmm(weight, images.flatten(2)).unflatten(2, images.shape[2:])
        projected += bias.view(-1, 1, 1)
        return projected.unflatten(0, inputs.shape[:2])

    def merged(self, hidden: Tensor, identity: Tensor) -> Tensor:
        """The sum over the branches, `[batch, 1, out, height, width]`.

        Args:
            hidden: what the branches expand.
            identity: the identity, summed over the branches if they do not share it.
        """
        copies = self.branches if self.shared_input else 1
        return torch.add(
            self._sum_of_branches(hidden), identity, alpha=self.identity_scale * copies
        )

    @property
    def has_plain_layers(self) -> bool:
        """Whether all layers are as they were made, and nobody waits for their calls."""
        layers = self._modules  # faster than attributes
        reduce, spatial, expand = layers["reduce"], layers["spatial"], layers["expand"]
        if reduce is None or spatial is None or not isinstance(expand, nn.Conv2d):
            return False
        merged = self.merge and expand.groups == 1
        return (
            computes_as(PointwiseConv2d, reduce, expand)
            and computes_as(nn.Conv2d, spatial)
            and convolves(reduce, 1, 1, 1 if self.shared_input else self.branches)
            and convolves(spatial, 3, self.stride, self.branches)
            and convolves(expand, 1, 1, 1 if merged else self.branches)
            and _is_plain_norm(layers["reduce_norm"], reduce)
            and _is_plain_norm(layers["spatial_norm"], spatial)
            and _is_plain_norm(layers["expand_norm"], expand)
            and self._has_plain_projection()
        )

    def reduction_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the 1 x 1 convolutions that reduce, with their norm folded."""
        return _with_norm(self.reduce, self.reduce_norm)

    def spatial_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the 3 x 3 convolutions, with their norm folded."""
        return _with_norm(self.spatial, self.spatial_norm)

    def expansion_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the 1 x 1 convolutions that expand, with their norm folded."""
        return _with_norm(self.expand, self.expand_norm)

    def merged_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the expansions and the sum of all branches, as one convolution."""
        weight, bias = self.expansion_weights()
        if self.expand.groups == 1:  # merged for inference, or one branch
            return weight, bias
        matrices = weight.view(self.branches, -1, self.width)
        return _summed(matrices), bias.view(self.branches, -1).sum(0)

    def projection_weights(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the projection, with its norm folded; empty without one."""
        if self.projection is None:
            nothing = self.reduce.weight.new_empty(0)
            return nothing, nothing
        conv, *norms = _layers_of(self.projection)
        assert isinstance(conv, nn.Conv2d)
        return _with_norm(conv, norms[0] if norms else nn.Identity())

    def _has_plain_projection(self) -> bool:
        """Whether the projection, if there is one, is torch's convolution with its norm or without.

        The norm takes no statistics of what is projected.
        """
        if self.projection is None:
            return True
        if not computes_as(nn.Sequential, self.projection):
            return False
        conv, *norms = _layers_of(self.projection)
        return (
            computes_as(nn.Conv2d, conv)
            and convolves(conv, 1, self.stride)
            and conv.weight.shape == (self.out_channels, self.in_channels, 1, 1)
            and len(norms) < 2
            and all(_is_plain_norm(norm, conv) for norm in norms)
        )

    @property
    def can_fold_expansion(self) -> bool:
        """Whether the norm of the expansion is in its weight already, or can be.

        Not if someone waits for the calls of the two.
        """
        if not computes_as(PointwiseConv2d, self.expand):
            return False
        if computes_as(nn.Identity, self.expand_norm):
            return self.expand.bias is not None
        return computes_as(nn.BatchNorm2d, self.expand_norm) and self.expand.bias is None

    def expansion(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and input of the expansion, in which its norm is folded.

        The bias is the weight of a constant input channel, so it needs no pass over memory.

        Args:
            hidden: what the branches expand, `[batch, branches * width, height, width]`.

        Returns:
            `[branches, out, width + 1]` and `[batch, branches, width + 1, height, width]`.
        """
        weight, bias = self._expansion_with_norm(hidden)
        grouped = hidden.unflatten(1, (self.branches, self.width))
        weight = torch.cat([weight, bias.unsqueeze(-1)], dim=-1).to(hidden.dtype)
        ones = grouped.new_ones(1).expand_as(grouped[:, :, :1])
        return weight, torch.cat([grouped, ones], dim=2)

    def _separate(self, hidden: Tensor, identity: Tensor) -> Tensor:
        """`[batch, branches, out, positions]`, the scaled identity included."""
        if not self.can_fold_expansion:  # another class of norm, such as `SyncBatchNorm`
            outputs: Tensor = self.expand_norm(self.expand(hidden))
            outputs = outputs.unflatten(1, (self.branches, -1)).flatten(3)
            return torch.add(outputs, identity, alpha=self.identity_scale)
        weight, grouped = self.expansion(hidden)
        batch = hidden.shape[0]
        weights = weight.expand(batch, *weight.shape).flatten(0, 1)
        identity = identity.expand(-1, self.branches, -1, -1).flatten(0, 1)
        grouped = grouped.flatten(3).flatten(0, 1)
        summed = torch.baddbmm(identity, weights, grouped, beta=self.identity_scale)
        return summed.unflatten(0, (batch, self.branches))

    def _sum_of_branches(self, hidden: Tensor) -> Tensor:
        """`[batch, 1, out, height, width]`, the sum over the branches without their identities."""
        expand = self.expand
        own = isinstance(expand, PointwiseConv2d)
        if own and expand.groups == 1 and expand.bias is not None:  # merged for inference
            outputs: Tensor = self.expand_norm(expand(hidden))
            return outputs.unsqueeze(1)
        if not self.can_fold_expansion:
            outputs = self.expand_norm(self.expand(hidden))
            return outputs.unflatten(1, (self.branches, -1)).sum(1, keepdim=True)
        weight, bias = self._expansion_with_norm(hidden)
        # Expansion and sum are one dense convolution from all bottlenecks to the output.
        dense, bias = _summed(weight).to(hidden.dtype), bias.sum(0).to(hidden.dtype)
        return functional.conv2d(hidden, dense, bias).unsqueeze(1)

    def _expansion_with_norm(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Weight `[branches, out, width]` and bias `[branches, out]` of expansion and norm as one.

        In training the norm takes the statistics of the expansion of `hidden`, and tracks them.
        """
        if isinstance(self.expand_norm, nn.BatchNorm2d):
            grouped = hidden.unflatten(1, (self.branches, self.width)).flatten(3)
            return fold_batch_norm(self.expand.matrices, grouped, self.expand_norm)
        assert self.expand.bias is not None
        return self.expand.matrices, self.expand.bias.view(self.branches, -1)


def _with_norm(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the norm after it, in evaluation, as one convolution."""
    if not isinstance(norm, nn.BatchNorm2d):
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        return conv.weight, bias
    # The inputs do not matter to a norm with running statistics.
    weight, bias = fold_batch_norm(conv.weight.flatten(1)[None], conv.weight, norm)
    return weight.view_as(conv.weight), bias.flatten()


def _is_plain_norm(norm: nn.Module | None, conv: nn.Module) -> bool:
    """Whether a norm is torch's batch norm in evaluation, or in the convolution before it."""
    if norm is None:
        return False
    if computes_as(nn.BatchNorm2d, norm):
        assert isinstance(norm, nn.BatchNorm2d)
        return not norm.training and norm.running_mean is not None and conv.bias is None
    return computes_as(nn.Identity, norm)


def _layers_of(projection: nn.Module) -> list[nn.Module]:
    """The layers of a projection that compute something; a folded norm does not."""
    return [layer for layer in projection.children() if not computes_as(nn.Identity, layer)]


def _summed(weight: Tensor) -> Tensor:
    """`[branches, out, in]` as one dense 1 x 1 kernel that sums the branches."""
    return weight.transpose(0, 1).flatten(1)[:, :, None, None]
