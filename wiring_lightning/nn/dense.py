"""A layer of DenseNet that can read only some of the earlier outputs."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.nn.channels import select_channels
from wiring_lightning.nn.folding import is_plain_convolution
from wiring_lightning.nn.hooks import computes_as
from wiring_lightning.wiring import plain_layer


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3 x 3 convolution of the concatenated sources (DenseNet).

    The gate of a source scales the convolution weights that read it. That equals scaling the source
    itself, but needs no pass over the activations.

    Args:
        channels: channels of every source.
        growth: channels of the output.
        reads: which of the outputs so far are the sources; all in order if not given.

    Shapes: sources `[batch, c_k, height, width]` -> `[batch, growth, height, width]`.

    Example:
        >>> layer = DenseLayer([16, 12], growth=12)
        >>> sources = [torch.randn(2, 16, 8, 8), torch.randn(2, 12, 8, 8)]
        >>> layer(sources, torch.tensor([1.0, 0.0])).shape
        torch.Size([2, 12, 8, 8])
    """

    kept_gates: Tensor | None

    def __init__(
        self, channels: Sequence[int], growth: int, reads: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.reads = tuple(range(len(channels)) if reads is None else reads)
        self.register_buffer("kept_gates", None)
        self.norm = nn.BatchNorm2d(sum(channels))
        self.conv = nn.Conv2d(sum(channels), growth, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    @override
    def forward(self, outputs: Sequence[Tensor], gates: Tensor | None = None) -> Tensor:
        """Read from the outputs so far; `gates` are `[sources]`, all ones if not given."""
        gates = self.kept_gates if gates is None else gates
        hidden = torch.cat([outputs[k] for k in self.reads], 1)
        hidden = functional.relu(self.norm(hidden), inplace=True)
        scale = None if gates is None else self._by_channel(gates).view(1, -1, 1, 1)
        conv = self.conv
        scalable = computes_as(nn.Conv2d, conv) and conv.groups == 1
        if scale is None or not scalable or conv.padding_mode != "zeros":
            convolved: Tensor = conv(hidden if scale is None else hidden * scale)
            return convolved
        return functional.conv2d(
            hidden, conv.weight * scale, conv.bias, conv.stride, conv.padding, conv.dilation
        )

    @torch.no_grad()
    def keep(self, gates: Tensor) -> "DenseLayer":
        """The layer with fixed gates `[sources]`, without the sources whose gate is zero.

        A convolution with hooks or a `forward` of its own may compute of its weight what it wants,
        and one with groups reads no source alone, so they stay as they are: they read all sources,
        times their gates. So does a layer that itself has hooks or a `forward` of its own.
        """
        separable = is_plain_convolution(self.conv) and getattr(self.conv, "groups", 1) == 1
        if not separable or not computes_as(DenseLayer, self):
            whole = deepcopy(self)
            whole.kept_gates = gates.to(self.conv.weight)
            return whole
        used = [index for index, gate in enumerate(gates.tolist()) if gate]
        conv = plain_layer(self.conv)
        assert isinstance(conv, nn.Conv2d)
        smaller = DenseLayer(
            [self.channels[index] for index in used],
            conv.out_channels,
            [self.reads[index] for index in used],
        ).to(conv.weight)
        scale = self._by_channel(gates)
        kept = scale != 0
        smaller.conv = deepcopy(conv)
        scaled = (conv.weight * scale.view(1, -1, 1, 1))[:, kept]
        smaller.conv.weight = nn.Parameter(scaled.to(conv.weight))
        smaller.conv.in_channels = int(kept.sum())
        smaller.norm = select_channels(self.norm, kept)
        return smaller

    def _by_channel(self, gates: Tensor) -> Tensor:
        """`[channels]` for every channel of the concatenated sources the gate of its source."""
        # Computed on the device: a list of numbers would be copied to a GPU in every step.
        source_of: list[Tensor] = []
        first = 0
        for width, equal in groupby(self.channels):
            last = first + len(list(equal))
            numbers = torch.arange(first, last, device=gates.device)
            source_of.append(numbers[:, None].expand(-1, width).flatten())
            first = last
        return gates.index_select(0, torch.cat(source_of))
