"""MobileNetV1, the dense baseline of MobileNetV1-DNW."""

from copy import deepcopy

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_number
from wiring_lightning.backbones.stems import MOBILENET_STEMS, MobileNetStem, make_stem, stem_plan
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.nn.pre_activation import preferred_layout
from wiring_lightning.wiring import Wiring, WiringBuilder, plain_layers

# Channels of every layer as a multiple of those of the stem, and its stride.
_LAYERS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))
_CHANNELS = 32  # of the stem


class MobileNetV1(Described):
    """Thirteen pairs of a depthwise 3 x 3 and a 1 x 1 convolution (Howard et al., 2017).

    Every convolution is followed by batch norm and ReLU. This is the baseline of DNW, Table 3.

    Args:
        width: d, the factor of all channel numbers, at least 1/32; the paper uses 0.25 to 1.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"imagenet"` (3 x 3 of stride 2).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default 32
            or 224, as the stem suggests.

    Example:
        >>> import torch
        >>> from wiring_lightning import costs
        >>> network = MobileNetV1(width=0.25, num_classes=10)
        >>> network(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
        >>> int(costs.parameters(network.wiring()))
        215642
    """

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 10,
        stem: MobileNetStem = "cifar",
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        self.record(locals())
        super().__init__()
        self.describe(width=width, stem=stem)
        plan = stem_plan(stem, image_size, MOBILENET_STEMS)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=plan.image_size)
        check_number("width", width, above=0, below=1000)
        if int(width * _CHANNELS) < 1:
            raise ValueError(
                f"width must be at least {1 / _CHANNELS}, one channel in the stem, got {width}."
            )
        channels = int(width * _CHANNELS)
        self.image_size = plan.image_size
        self.assumes_image_size = image_size is None
        self.stem = make_stem(plan, in_channels, channels)
        self.layers = nn.ModuleDict()
        for number, (multiple, stride) in enumerate(_LAYERS, start=1):
            out = int(width * _CHANNELS * multiple)
            self.layers[f"layer{number}"] = nn.Sequential(
                *_convolution(channels, channels, 3, stride, groups=channels),
                *_convolution(channels, out, 1),
            )
            channels = out
        self.classifier = nn.Linear(channels, num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(preferred_layout(images))
        for layer in self.layers.values():
            state = layer(state)
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Layers as nodes, a chain."""
        graph, side = WiringBuilder(), self.image_size
        last: list[int] = []
        for name, part in (("stem", self.stem), *self.layers.items()):
            last = [graph.add_layers(name, part, side=side, reads=last)]
            stride = next(
                conv.stride[0] for conv in plain_layers(part) if isinstance(conv, nn.Conv2d)
            )
            side = -(-side // stride)
        graph.add_layers("classifier", self.classifier, side=side, reads=last)
        return graph.wiring()

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "MobileNetV1":
        """A copy in evaluation mode: nothing can be removed from a chain.

        Args:
            fold_batch_norm: fold the batch norms into the convolutions, for inference only.
        """
        compacted = deepcopy(self).eval()
        return fold_batch_norms(compacted) if fold_batch_norm else compacted


def _convolution(
    in_channels: int, out_channels: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, size, stride, padding=size // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
