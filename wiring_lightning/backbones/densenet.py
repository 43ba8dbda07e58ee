"""DenseNet whose layers learn which earlier layers of their stage they read."""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning._checks import MOST_LAYERS, check_counts
from wiring_lightning.backbones.stages import equal_stages
from wiring_lightning.backbones.stems import (
    StemName,
    initialize_convolutions,
    make_stem,
    small_stem_plan,
)
from wiring_lightning.nn import DenseLayer, Gate
from wiring_lightning.nn.checks import check_fan_in, check_word
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.wiring import Wiring, WiringBuilder, count_by_source

DenseNetWiring = Literal["learned", "dense", "random", "covered"]


class DenseNet(Described):
    """DenseNet with learned skip connections, future work of MaskConnect (Section 5).

    Three stages of `(depth - 4) / 3` layers behind a 3 x 3 convolution of `2 * growth` channels.
    Each layer reads K sources: earlier layers of its stage, or the stage's input. Transitions and
    the classifier read the whole stage, as in DenseNet. So every layer is live, and `compact()`
    removes only the weights that read inactive sources.

    Args:
        depth: number of layers, 3n + 4 (40, 100, ...).
        growth: k, output channels of a layer.
        fan_in: K, how many sources each layer reads; a layer with fewer reads all. Not used by
            `wiring="dense"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"mini_imagenet"` (3 x 3 and a max-pool).
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"dense"` (the plain
            DenseNet), `"random"` (K fixed random sources) or `"covered"` (random, too, but every
            source has a reader among the layers of its stage).
        weighted: whether every active connection also learns a positive weight (see `nn.Gate`).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32 or 64, as the stem suggests.

    Example:
        >>> network = DenseNet(depth=40, growth=12, wiring="dense", num_classes=100)
        >>> from wiring_lightning import costs
        >>> int(costs.parameters(network.wiring()))
        1100428
    """

    def __init__(
        self,
        depth: int = 40,
        growth: int = 12,
        fan_in: int = 4,
        num_classes: int = 10,
        stem: StemName = "cifar",
        wiring: DenseNetWiring = "learned",
        weighted: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        self.record(locals())
        super().__init__()
        self.describe(
            depth=depth, growth=growth, stem=stem, wiring=wiring,
            fan_in=None if wiring == "dense" else fan_in,
        )  # fmt: skip
        plan = small_stem_plan("DenseNet", stem, image_size)
        check_word("wiring", wiring, DenseNetWiring)
        check_counts(
            growth=growth,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=plan.image_size,
        )
        check_counts(most=MOST_LAYERS, depth=depth)
        rule = "3n + 4 (7, 10, 40, 100, ...) for three equal stages"
        count, *_ = equal_stages(depth, layers=1, others=4, rule=rule)
        if wiring != "dense":
            check_fan_in(fan_in, count, f"{count}, the number of layers per stage")
        self.image_size = plan.image_size
        self.assumes_image_size = image_size is None
        self.reduction = plan.reduction
        self.stem = make_stem(plan, in_channels, 2 * growth, activate=False)
        initialize_convolutions(self.stem)
        channels = 2 * growth
        self.stages = nn.ModuleDict()
        self.transitions = nn.ModuleDict()
        for stage in range(3):
            layers = [DenseLayer([channels, *[growth] * index], growth) for index in range(count)]
            self.stages[f"stage{stage + 1}"] = nn.ModuleList(layers)
            channels += count * growth
            if stage < 2:
                self.transitions[f"stage{stage + 1}"] = _transition(channels)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self.connections = nn.ModuleDict()
        if wiring != "dense":
            # After all weights, so that a seed gives the same weights with every wiring.
            earlier = torch.ones(count, count, dtype=torch.bool, device="cpu").tril()
            for name in self.stages:
                self.connections[name] = Gate(count, count, fan_in, wiring, earlier, weighted)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(images)
        for name, layers in self._stages():
            outputs = [state]
            gates = self._gate(name).weights() if name in self.connections else None
            for index, layer in enumerate(layers):
                # Also kept gates are given, since a hook or a `forward` of its own may use them.
                row = layer.kept_gates if gates is None else gates[index, : index + 1]
                outputs.append(layer(outputs, row))
            state = torch.cat(outputs, 1)
            if name in self.transitions:
                state = self.transitions[name](state)
        state = functional.relu(self.norm(state), inplace=True)
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Layers as nodes and possible connections as edges, active as in evaluation mode."""
        graph, side = WiringBuilder(), self.image_size
        last = graph.add_layers("stem", self.stem, side=side)
        side = -(-side // self.reduction)
        for row, (name, layers) in enumerate(self._stages(), start=1):
            names = [f"{name}.layer{index + 1}" for index in range(len(layers))]
            outputs = [last, *map(graph.add_node, names)]
            if name in self.connections:
                widest = layers[-1]  # reads all sources of the stage
                size, work = count_by_source(widest, widest.channels, side)
                choice = self._gate(name).choice()
                graph.choose(outputs[:-1], outputs[1:], choice, size, work)
            else:
                for node, layer in zip(outputs[1:], layers, strict=True):
                    size, work = count_by_source(layer, layer.channels, side)
                    reads = [outputs[source] for source in layer.reads]
                    graph.connect(reads, node, parameters=size, multiply_adds=work)
            if name in self.transitions:
                transition = self.transitions[name]
                last = graph.add_layers(f"transition{row}", transition, side=side, reads=outputs)
                side //= 2
        graph.add_layers("classifier", self.norm, self.classifier, side=side, reads=outputs)
        return graph.wiring()

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "DenseNet":
        """The network in evaluation mode, without gates and without unused weights.

        Args:
            fold_batch_norm: as for other networks; without effect on the norms of a DenseNet, which
                are in front of a ReLU and a convolution and so have to stay.
        """
        compacted = deepcopy(self)
        for name, layers in compacted._stages():
            if name not in compacted.connections:
                continue
            matrix = compacted._gate(name).selection().matrix
            compacted.stages[name] = nn.ModuleList(
                layer.keep(matrix[index, : index + 1]) for index, layer in enumerate(layers)
            )
        compacted.connections = nn.ModuleDict()
        compacted.eval()
        return fold_batch_norms(compacted) if fold_batch_norm else compacted

    def _gate(self, stage: str) -> Gate:
        gate = self.connections[stage]
        assert isinstance(gate, Gate)
        return gate

    def _stages(self) -> list[tuple[str, list[DenseLayer]]]:
        return [
            (name, [layer for layer in layers if isinstance(layer, DenseLayer)])
            for name, layers in self.stages.items()
            if isinstance(layers, nn.ModuleList)
        ]


def _transition(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), conv, nn.AvgPool2d(2))
