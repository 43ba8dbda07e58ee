"""DenseNet whose layers learn which earlier layers of their stage they read."""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.backbones.stems import StemName, stem_plan
from wiring_lightning.backbones.wiring_columns import Choice, WiringColumns, count_parameters
from wiring_lightning.nn import DenseLayer, Gate
from wiring_lightning.nn.described import Described
from wiring_lightning.wiring import Wiring

DenseNetWiring = Literal["learned", "dense", "random"]


class DenseNet(Described):
    """DenseNet with learned skip connections, future work of MaskConnect (Section 5).

    Three stages of `(depth - 4) / 3` layers behind a 3 x 3 convolution of `2 * growth` channels.
    Each layer reads K of what its stage holds so far: the stage's input and the layers before.
    Transitions and the classifier read the whole stage, as in DenseNet, so every layer lives;
    what pruning removes is the part of each layer that reads sources it did not choose.

    Args:
        depth: number of layers, 3n + 4 (40, 100, ...).
        growth: k, output channels of a layer.
        fan_in: K, how many sources each layer reads; a layer with fewer reads all. Not used by
            `wiring="dense"`.
        num_classes: number of classes.
        stem: `"cifar"` (3 x 3) or `"mini_imagenet"` (3 x 3 and a max-pool).
        wiring: `"learned"` (needs `callbacks.MaskConnect` to learn), `"dense"` (the plain DenseNet)
            or `"random"` (K random sources that stay).
        weighted: whether every active connection also learns a positive weight (see `nn.Gate`).
        in_channels: channels of the images.
        image_size: height and width of the images, used only to count multiply-adds; by default
            32 or 64, as the stem suggests.

    Raises:
        ValueError: if the depth fits no stage plan, K is not between 1 and the number of layers per
            stage, or a name is unknown.

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
        super().__init__()
        plan = stem_plan(stem)
        if stem == "imagenet":
            raise ValueError('DenseNet has the stems "cifar" and "mini_imagenet", got "imagenet".')
        if wiring not in ("learned", "dense", "random"):
            raise ValueError(f'wiring must be "learned", "dense" or "random", got "{wiring}".')
        if depth < 7 or (depth - 4) % 3:
            raise ValueError(
                f"depth must be 3n + 4 (7, 10, 40, 100, ...) for three equal stages, got {depth}."
            )
        if growth < 1:
            raise ValueError(f"growth must be at least 1, got {growth}.")
        count = (depth - 4) // 3
        if wiring != "dense" and not 1 <= fan_in <= count:
            raise ValueError(
                f"fan_in (K) must be between 1 and {count}, the number of layers per stage, "
                f"got {fan_in}."
            )
        self.image_size = plan.image_size if image_size is None else image_size
        self.describe(
            depth=depth, growth=growth, stem=stem, wiring=wiring,
            fan_in=None if wiring == "dense" else fan_in,
        )  # fmt: skip
        self.reduction = plan.reduction
        conv = nn.Conv2d(in_channels, 2 * growth, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        pool = [nn.MaxPool2d(3, stride=2, padding=1)] if plan.max_pool else []
        self.stem = nn.Sequential(conv, *pool)
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
            # Drawn after all weights, so that every wiring starts from the same weights for a seed.
            earlier = torch.ones(count, count, dtype=torch.bool).tril()
            for name in self.stages:
                self.connections[name] = Gate(count, count, fan_in, wiring, earlier, weighted)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(images)
        for name, layers in self._stages():
            outputs = [state]
            gates = self._gates(name)
            for index, layer in enumerate(layers):
                row = None if gates is None else gates[index, : index + 1]
                outputs.append(layer(outputs, row))
            state = torch.cat(outputs, 1)
            if name in self.transitions:
                state = self.transitions[name](state)
        state = functional.relu(self.norm(state), inplace=True)
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def wiring(self) -> Wiring:
        """Layers as nodes and possible connections as edges, as used in evaluation mode."""
        side, stem = self.image_size, count_parameters(self.stem)
        graph = WiringColumns()
        last = graph.add("stem", stem, stem * side * side)
        side = -(-side // self.reduction)
        for row, (name, layers) in enumerate(self._stages(), start=1):
            outputs = [last]
            for index, layer in enumerate(layers):
                sources = range(len(layer.reads))
                parameters = map(layer.edge_parameters, sources)
                work = [layer.edge_multiply_adds(source, side, side) for source in sources]
                number = graph.add(
                    f"{name}.layer{index + 1}",
                    0,
                    0,
                    [outputs[source] for source in layer.reads],
                    zip(parameters, work, strict=True),
                    self._choice(name, index),
                )
                outputs.append(number)
            if name in self.transitions:
                size, work_there = self._transition_costs(name, side)
                last = graph.add(f"transition{row}", size, work_there, outputs)
                side //= 2
        size = count_parameters(self.norm, self.classifier)
        graph.add("classifier", size, self.classifier.weight.numel(), outputs)
        return graph.wiring()

    def compact(self) -> "DenseNet":
        """The same function in evaluation mode, without gates and without what they leave out."""
        compacted = deepcopy(self)
        for name, layers in compacted._stages():
            if name not in compacted.connections:
                continue
            gate = compacted.connections[name]
            assert isinstance(gate, Gate)
            matrix = gate.selection().matrix
            compacted.stages[name] = nn.ModuleList(
                layer.keep(matrix[index, : index + 1]) for index, layer in enumerate(layers)
            )
        compacted.connections = nn.ModuleDict()
        return compacted.eval()

    def _gates(self, stage: str) -> Tensor | None:
        """`[layers, sources]` of a stage in this forward pass."""
        if stage not in self.connections:
            return None
        gate = self.connections[stage]
        assert isinstance(gate, Gate)
        return gate.weights()

    def _choice(self, stage: str, layer: int) -> Choice | None:
        if stage not in self.connections:
            return None
        gate = self.connections[stage]
        assert isinstance(gate, Gate)
        return Choice(
            gate.best[layer, : layer + 1].tolist(),
            gate.scores.detach()[layer, : layer + 1].tolist(),
            gate.mode == "learned" and layer + 1 > gate.fan_in,
        )

    def _transition_costs(self, stage: str, side: int) -> tuple[int, int]:
        transition = self.transitions[stage]
        weights = [m.weight for m in transition.modules() if isinstance(m, nn.Conv2d)]
        work = sum(weight.numel() for weight in weights) * side * side
        return count_parameters(transition), work

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
