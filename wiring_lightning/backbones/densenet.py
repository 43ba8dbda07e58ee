"""DenseNet whose layers learn which earlier layers of their stage they read."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.backbones.stems import StemName, stem_plan
from wiring_lightning.nn import DenseLayer, Gate
from wiring_lightning.wiring import Wiring, make_wiring

DenseNetWiring = Literal["learned", "dense", "random"]


class DenseNet(nn.Module):
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
        side = self.image_size
        nodes, edges = _Nodes(), _Edges()
        nodes.add("stem", _size(self.stem), _size(self.stem) * side * side)
        side = -(-side // self.reduction)
        for row, (name, layers) in enumerate(self._stages(), start=1):
            base = len(nodes.names) - 1
            gate = self.connections[name] if name in self.connections else None  # noqa: SIM401
            assert gate is None or isinstance(gate, Gate)
            for index, layer in enumerate(layers):
                edges.add_layer(base, index, layer, gate, side)
                nodes.add(f"{name}.layer{index + 1}", 0, 0, same_group=index > 0)
            edges.add_all(range(base, len(nodes.names)), target=len(nodes.names))
            if name in self.transitions:
                size = _size(self.transitions[name])
                nodes.add(f"transition{row}", size, self._transition_work(name, side))
                side //= 2
        weights = self.classifier.weight.numel()
        nodes.add("classifier", _size(self.norm) + _size(self.classifier), weights)
        return make_wiring(
            nodes.names,
            edges.source,
            edges.target,
            edges.active,
            score=edges.score,
            learnable=edges.learnable,
            group=nodes.group,
            parameters=nodes.parameters,
            multiply_adds=nodes.multiply_adds,
            edge_parameters=edges.parameters,
            edge_multiply_adds=edges.multiply_adds,
        )

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

    def _transition_work(self, stage: str, side: int) -> int:
        weights = [m.weight for m in self.transitions[stage].modules() if isinstance(m, nn.Conv2d)]
        return sum(weight.numel() for weight in weights) * side * side

    def _stages(self) -> list[tuple[str, list[DenseLayer]]]:
        return [
            (name, [layer for layer in layers if isinstance(layer, DenseLayer)])
            for name, layers in self.stages.items()
            if isinstance(layers, nn.ModuleList)
        ]


class _Nodes:
    """Node columns under construction."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.group: list[int] = []
        self.parameters: list[int] = []
        self.multiply_adds: list[int] = []

    def add(self, name: str, parameters: int, multiply_adds: int, same_group: bool = False) -> None:
        """Add a node, in the group of the node before it or in a new one."""
        self.group.append((self.group[-1] if self.group else -1) + (not same_group))
        self.names.append(name)
        self.parameters.append(parameters)
        self.multiply_adds.append(multiply_adds)


class _Edges:
    """Edge columns under construction."""

    def __init__(self) -> None:
        self.source: list[int] = []
        self.target: list[int] = []
        self.active: list[bool] = []
        self.score: list[float] = []
        self.learnable: list[bool] = []
        self.parameters: list[int] = []
        self.multiply_adds: list[int] = []

    def add_layer(
        self, base: int, index: int, layer: DenseLayer, gate: Gate | None, side: int
    ) -> None:
        """The edges into a layer; node `base` is the input of the stage."""
        for position, source in enumerate(layer.reads):
            chosen = True if gate is None else bool(gate.best[index, source])
            self.active.append(chosen)
            score = 1.0 if gate is None else float(gate.scores.detach()[index, source])
            self.score.append(score)
            learns = gate is not None and gate.mode == "learned" and index + 1 > gate.fan_in
            self.learnable.append(learns)
            self.source.append(base + source)
            self.target.append(base + index + 1)
            self.parameters.append(layer.edge_parameters(position))
            self.multiply_adds.append(layer.edge_multiply_adds(position, side, side))

    def add_all(self, sources: Sequence[int], target: int) -> None:
        """Edges that are always there and cost nothing of their own."""
        count = len(sources)
        self.source += sources
        self.target += [target] * count
        self.active += [True] * count
        self.score += [1.0] * count
        self.learnable += [False] * count
        self.parameters += [0] * count
        self.multiply_adds += [0] * count


def _transition(channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), conv, nn.AvgPool2d(2))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
