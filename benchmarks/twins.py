"""Every method that learns a wiring beside its plain twin: the same work without the method.

`pairs()` is the list. Its networks read images `[batch, 3, 32, 32]` and know ten classes.

    pair = pairs()["resnext"]
    step = training_step(pair.network(), pair.learn, images, labels)
    plain = training_step(pair.plain(), None, images, labels)

Who trains with Lightning adds `pair.callbacks()` to the trainer instead of calling `learn`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.dnw_step import edge_sets
from benchmarks.resnext_step import PlainResNeXt
from benchmarks.steps import Step
from tests.backbones.plain_resnet import PlainResNet
from tests.backbones.plain_sparsenet import ListSparseNet
from wiring_lightning import costs
from wiring_lightning.backbones import (
    ConvFabric,
    MobileNetV1,
    MobileNetV1DNW,
    NeuralGraph,
    ResNet,
    ResNeXt,
    SparseNet,
)
from wiring_lightning.callbacks import DNW, BudgetedSearch, MaskConnect
from wiring_lightning.functional import budgeted_objective
from wiring_lightning.nn import find_bernoulli_gates, find_gates
from wiring_lightning.optim import GateSGD, Reinforce, StraightThrough

CLASSES = 10
SIDE = 32
_DENSITY = 0.1  # of layers that DNW makes sparse

# What a method does after each step of the weights' optimizer, given the losses of all examples.
AfterStep = Callable[[Tensor], None]
Learn = Callable[[nn.Module, Optimizer], AfterStep]
Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Pair:
    """A method and its plain twin.

    Args:
        method: the network with the method, in words.
        twin: the network without it, in words.
        network: makes the network whose wiring is learned, or fixed by a rule.
        plain: makes the plain twin.
        learn: attaches the method to a network and the optimizer of its weights; `None` if nothing
            about the wiring is learned.
        callbacks: makes the callbacks that do the same under Lightning.
    """

    method: str
    twin: str
    network: Make
    plain: Make
    learn: Learn | None = None
    callbacks: Callable[[], list[Callback]] = list


def pairs(tiny: bool = False) -> dict[str, Pair]:
    """All pairs by name; `tiny` makes all networks small enough for a test on a CPU."""
    resnext, blocks = ((11, 4, 4), 2) if tiny else ((29, 8, 8), 18)
    gated: Make = partial(ResNeXt, *resnext, fan_in=resnext[2] // 2, num_classes=CLASSES)
    plain_resnext: Make = partial(PlainResNeXt, *resnext, dense=False, classes=CLASSES)
    depth, fan_in = 6 * blocks + 2, 3 if tiny else 20
    layers, growth = (3, 4) if tiny else (16, 24)
    name, dense = "ResNet-50", partial[nn.Module](torchvision.models.resnet50, num_classes=CLASSES)
    if tiny:
        name, dense = "ResNet-8", partial[nn.Module](PlainResNet, (1, 1, 1), CLASSES)
    stem = 4 if tiny else 32
    graph: Make = NeuralGraph
    fabric, edges = (8, 128, 6), "8 x 6 nodes"
    if tiny:
        graph = partial(NeuralGraph, nodes=80, inputs=8, outputs=24, depth=4, edges=500)
        fabric, edges = (2, 8, 3), "2 x 3 nodes"
    shape = ",".join(map(str, resnext))
    return {
        "resnext": Pair(
            f"ResNeXt {{{shape}}}, learning", "plain layers", gated, plain_resnext,
            _gates, _mask_connect,
        ),
        "resnext-frozen": Pair(
            f"ResNeXt {{{shape}}}, frozen", "plain layers", partial(_frozen, gated), plain_resnext
        ),
        "resnet": Pair(
            f"ResNet-{depth}, learning", "plain residual network",
            partial(ResNet, depth, fan_in, num_classes=CLASSES),
            partial(PlainResNet, (blocks,) * 3, CLASSES), _gates, _mask_connect,
        ),
        "sparsenet": Pair(
            f"SparseNet BC-{6 * layers + 4}-{growth}", "a list and concatenations",
            partial(SparseNet, 6 * layers + 4, growth, True, compression=0.5, num_classes=CLASSES),
            partial(ListSparseNet, layers, (growth,) * 3, True, 0.5, classes=CLASSES),
        ),
        "dnw": Pair(
            f"{name} with DNW, 10 % of the weights", "the same, dense", dense, dense,
            _largest, partial(_dnw, _DENSITY),
        ),
        "mobilenet": Pair(
            "MobileNetV1-DNW x0.225", "MobileNetV1 x0.25",
            partial(MobileNetV1DNW, 0.225, CLASSES, stem_channels=stem),
            partial(MobileNetV1, 0.25 * stem / 32, CLASSES), _largest, partial(_dnw, None),
        ),
        "neural-graph": Pair(
            "NeuralGraph with DNW", "the same, all weights", graph, graph,
            _largest, partial(_dnw, None),
        ),
        "fabric": Pair(
            f"ConvFabric, {edges} of {fabric[1]} channels, searching", "the same, all edges",
            partial(ConvFabric, *fabric, num_classes=CLASSES),
            partial(ConvFabric, *fabric, num_classes=CLASSES, architecture="full"),
            _search, partial(_budgeted, partial(ConvFabric, *fabric, num_classes=CLASSES)),
        ),
    }  # fmt: skip


def training_step(
    network: nn.Module, learn: Learn | None, images: Tensor, labels: Tensor, amp: bool = False
) -> Step:
    """Forward, backward and SGD with momentum, and then what the method does.

    Args:
        network: a network on the device of the images.
        learn: from a `Pair`; `None` for a plain twin.
        images: `[batch, 3, 32, 32]`.
        labels: `[batch]`.
        amp: whether the forward pass is under bfloat16 autocast.
    """
    scores = {id(gate.scores) for gate in find_gates(network).values()}
    scores |= {id(gate.logits) for gate in find_bernoulli_gates(network).values()}
    weights = [p for p in network.parameters() if id(p) not in scores]
    optimizer = torch.optim.SGD(weights, lr=0.01, momentum=0.9, weight_decay=1e-4)
    after_step = learn(network, optimizer) if learn else None

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            losses = functional.cross_entropy(network(images), labels, reduction="none")
        losses.mean().backward()
        optimizer.step()
        if after_step is not None:
            after_step(losses.detach())

    return step


def _frozen(make: Make) -> nn.Module:
    network = make()
    for gate in find_gates(network).values():
        gate.freeze()
    return network


def _gates(network: nn.Module, _: Optimizer) -> AfterStep:
    """Update of all scores, and the draw of the next wiring."""
    optimizer = GateSGD([gate for gate in find_gates(network).values() if gate.learnable])

    def after_step(_: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    return after_step


def _largest(network: nn.Module, optimizer: Optimizer) -> AfterStep:
    """The largest weights are chosen by hooks of the optimizer."""
    StraightThrough(optimizer, edge_sets(network))
    return lambda _: None


def _search(network: nn.Module, _: Optimizer) -> AfterStep:
    """Prices of the drawn architectures, and the policy gradient."""
    assert isinstance(network, ConvFabric)
    gate, wiring, budget = network.gate, network.wiring(), _half(network)
    assert gate is not None
    optimizer = Reinforce([gate], lr=0.0)  # the probabilities stay, and so does the work
    gate.seed(0)

    def after_step(losses: Tensor) -> None:
        assert gate.drawn is not None
        prices = costs.multiply_adds(wiring.with_active(network.active_edges(gate.drawn)))
        optimizer.observe(budgeted_objective(losses, prices, budget, 1 / budget))
        optimizer.step()

    return after_step


def _half(network: ConvFabric) -> float:
    """Half of the multiply-adds of the whole fabric."""
    return float(costs.multiply_adds(network.wiring(), live=False)) / 2


def _mask_connect() -> list[Callback]:
    return [MaskConnect()]


def _dnw(density: float | None) -> list[Callback]:
    return [DNW() if density is None else DNW(density=density)]


def _budgeted(make: Callable[[], ConvFabric]) -> list[Callback]:
    return [BudgetedSearch(budget=_half(make()), lr=0.0)]
