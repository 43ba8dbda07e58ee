"""Encoders of single channels, and heads that choose which of them they read."""

from copy import deepcopy
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_seed
from wiring_lightning.functional import planted_edges, planted_sources
from wiring_lightning.nn import Gate, GroupedLinear, Selection
from wiring_lightning.nn.checks import check_fan_in, check_word
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.hooks import in_place_of
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.wiring import Wiring, WiringBuilder, count_parameters

WiringName = Literal["learned", "random", "planted"]

_GATE = "heads"  # the gate has the name of what it feeds


class GatedHeads(Described):
    """An encoder for each channel of an image, and heads that each read K of the encoders.

    The smallest network in which a wiring can be learned, for data with a known right wiring, such
    as `data.DigitSums`: an encoder sees one digit, and a head must find those it is asked for. An
    encoder has two linear layers. A head sums its K codes and has a batch norm and two linear
    layers.

    Shapes: images `[batch, in_channels, image_size, image_size]` become logits
    `[batch, num_classes, heads]`.

    Args:
        in_channels: C, number of channels, each with an encoder.
        heads: number of heads.
        fan_in: K, number of encoders that each head reads.
        num_classes: number of classes of every head.
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"random"` (K random encoders
            that stay) or `"planted"` (the right ones).
        wiring_seed: seed of the planted wiring, as for `data.DigitSums`.
        width: hidden channels of an encoder and of a head.
        features: channels of an encoder's output.
        image_size: height and width of the images.

    Attributes:
        planted: `[heads, fan_in]` the encoders that each head should read.

    Raises:
        ValueError: if a number is out of range, or `wiring` is none of these words.

    Example:
        >>> import torch
        >>> network = GatedHeads(wiring="planted")
        >>> network(torch.randn(2, 8, 8, 8)).shape
        torch.Size([2, 19, 8])
        >>> int(network.wiring().active.sum())  # 8 inputs, 16 chosen edges, 8 outputs
        32
    """

    def __init__(
        self,
        in_channels: int = 8,
        heads: int = 8,
        fan_in: int = 2,
        num_classes: int = 19,
        wiring: WiringName = "learned",
        wiring_seed: int = 0,
        width: int = 32,
        features: int = 16,
        image_size: int = 8,
    ) -> None:
        self.record(locals())
        super().__init__()
        check_counts(
            in_channels=in_channels, heads=heads, num_classes=num_classes, width=width,
            features=features, image_size=image_size,
        )  # fmt: skip
        check_fan_in(fan_in, in_channels, f"the number of channels (C = {in_channels})")
        check_word("wiring", wiring, WiringName)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.image_size = image_size
        self.fan_in = fan_in
        check_seed(wiring_seed, "wiring_seed")
        self.planted = planted_sources(heads, in_channels, fan_in, wiring_seed)
        pixels = image_size**2
        self.encoders = nn.Sequential(
            GroupedLinear(in_channels, pixels, width),
            nn.ReLU(),
            GroupedLinear(in_channels, width, features),
        )
        self.norm = nn.BatchNorm1d(heads * features)
        self.heads = nn.Sequential(
            GroupedLinear(heads, features, width),
            nn.ReLU(),
            GroupedLinear(heads, width, num_classes),
        )
        # After all weights, so that a seed gives the same weights with every wiring.
        self.gates = nn.ModuleDict({_GATE: self._connection(wiring)})
        self._describe(wiring)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, in_channels, size, size]` -> logits `[batch, num_classes, heads]`.

        Raises:
            ValueError: if the images have another shape.
        """
        wanted = (self.in_channels, self.image_size, self.image_size)
        if images.shape[1:] != wanted:
            raise ValueError(
                f"GatedHeads takes images of shape {wanted}, got {tuple(images.shape[1:])}: set "
                "its in_channels and image_size."
            )
        return _answer(images, self.encoders, self._gate, self.norm, self.heads)

    def wiring(self) -> Wiring:
        """Encoders and heads as nodes, and possible connections as edges."""
        graph, channels, heads = WiringBuilder(), self.in_channels, len(self.planted)
        image = graph.add_node("image", steps=0)
        encoders = graph.add_group("encoders.encoder", channels, *_costs(self.encoders, channels))
        graph.connect(image, encoders)
        parts = nn.ModuleList([self.norm, self.heads])
        readers = graph.add_group("heads.head", heads, *_costs(parts, heads))
        graph.choose(encoders, readers, self._gate.choice())
        graph.add_node("logits", steps=0, reads=readers)
        return graph.wiring()

    def planted_wiring(self) -> Wiring:
        """The right wiring of the same nodes."""
        return self.rewired("planted").wiring()

    def rewired(self, wiring: Literal["random", "planted"]) -> "GatedHeads":
        """A copy with the same weights and another wiring, which does not learn.

        Args:
            wiring: `"random"`, drawn anew by torch's global generator, or `"planted"`.
        """
        twin = deepcopy(self)
        twin.gates[_GATE] = twin._connection(wiring).to(next(self.parameters()).device)
        twin._describe(wiring)
        return twin

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> nn.Module:
        """The network in evaluation mode, without gate and without encoders that nobody reads.

        Args:
            fold_batch_norm: as for other networks; without effect here, where the norm follows the
                sums.
        """
        selection = self._gate.selection()
        kept = selection.weights().bool().any(0).nonzero().flatten()
        numbers = kept.tolist()
        encoders = deepcopy(self.encoders)
        for index, layer in enumerate(encoders):
            if isinstance(layer, GroupedLinear):
                encoders[index] = layer.keep(numbers)
        selection = selection.keep(range(len(self.planted)), numbers)
        selection = in_place_of(self._gate, selection, Gate, Selection)
        norm, heads = deepcopy(self.norm), deepcopy(self.heads)
        small = in_place_of(self, _Compact(kept, encoders, selection, norm, heads).eval())
        return fold_batch_norms(small) if fold_batch_norm else small

    @property
    def _gate(self) -> Gate | Selection:
        gate = self.gates[_GATE]
        assert isinstance(gate, Gate | Selection)
        return gate

    def _connection(self, wiring: WiringName) -> Gate | Selection:
        if wiring == "planted":
            edges = planted_edges(self.planted, self.in_channels).float()
            return Selection(edges, edges)
        return Gate(len(self.planted), self.in_channels, self.fan_in, mode=wiring)

    def _describe(self, wiring: WiringName) -> None:
        self.describe(fan_in=self.fan_in, wiring=wiring, planted=self.planted.tolist())


class _Compact(nn.Module):
    """`GatedHeads` with a fixed wiring, for some of the channels.

    Args:
        kept: `[channels]` numbers of the channels that have an encoder.
        encoders: of these channels.
        selection: the wiring, from these encoders to the heads.
        norm: of what the heads read.
        heads: all of them.
    """

    kept: Tensor

    def __init__(
        self,
        kept: Tensor,
        encoders: nn.Module,
        selection: Selection,
        norm: nn.Module,
        heads: nn.Module,
    ) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        self.encoders = encoders
        self.selection = selection
        self.norm = norm
        self.heads = heads

    @override
    def forward(self, images: Tensor) -> Tensor:
        return _answer(images[:, self.kept], self.encoders, self.selection, self.norm, self.heads)


def _answer(
    images: Tensor, encoders: nn.Module, gate: nn.Module, norm: nn.Module, heads: nn.Module
) -> Tensor:
    """`[batch, channels, height, width]` -> `[batch, classes, heads]`."""
    sums: Tensor = gate(encoders(images.flatten(2)))
    normed = norm(sums.flatten(1)).view(sums.shape)
    logits: Tensor = heads(normed)
    return logits.transpose(1, 2)


def _costs(layers: nn.Module, parts: int) -> tuple[int, int]:
    """Parameters and multiply-adds of one of some equal parts: each weight is used once."""
    weights = sum(
        layer.weight.numel() for layer in layers.modules() if isinstance(layer, GroupedLinear)
    )
    return count_parameters(layers) // parts, weights // parts
