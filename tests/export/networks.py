"""Small networks of every kind, with weights and statistics that are not those of the start."""

import torch
from torch import Tensor, nn

from tests.methods import METHODS, Method, named
from tests.shallow import shallow
from wiring_lightning.backbones import ConvFabric, GatedHeads, MobileNetV1DNW
from wiring_lightning.nn import BernoulliGate, Gate

_RECTIFIED = named("continuous-graph").arguments | {"rectify_states": True, "edges": 120}
# What the registry does not have: a graph as classifier, logits of several heads, and of pixels.
_MORE = [
    Method("rectified-graph", named("continuous-graph").backbone, _RECTIFIED),
    Method("small-mobilenet-dnw", MobileNetV1DNW,
           {"width": 0.4, "stem_channels": 2, "small": True, "in_channels": 1, "image_size": 8}),
    Method("gated-heads", GatedHeads, {"in_channels": 3, "heads": 3, "num_classes": 4}),
    Method("segmentation-fabric", ConvFabric, named("conv-fabric").arguments
           | {"task": "segmentation", "num_classes": 3, "channels": 8}),
]  # fmt: skip


def _different(methods: list[Method]) -> list[Method]:
    """One method for each network: learners do not change how it is exported."""
    kept: list[Method] = []
    for method in methods:
        if all((method.backbone, method.arguments) != (o.backbone, o.arguments) for o in kept):
            kept.append(method)
    return kept


NETWORKS = [shallow(method) for method in _different([*METHODS, *_MORE])]

# Tracing takes long, so it is done for one row of each class, and where another row computes in
# another way. These have the layers of resnext-learned, resnet-learned, rectified-graph and
# small-mobilenet-dnw.
_LIKE_ANOTHER = (
    "resnext-random", "resnext-full", "resnext-real", "resnet-random", "resnet-previous",
    "continuous-graph", "mobilenet-dnw",
)  # fmt: skip
TRACED = [method for method in NETWORKS if method.name not in _LIKE_ANOTHER]


def images_for(method: Method, count: int = 6) -> Tensor:
    channels = method.arguments.get("in_channels", 1)
    return torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def made(method: Method) -> nn.Module:
    """A network as after training: random scores, statistics and norms; in training mode."""
    torch.manual_seed(0)
    network = method.backbone(**method.arguments)
    for module in network.modules():
        if isinstance(module, Gate) and module.mode == "learned":
            module.scores.data = torch.where(
                module.scores >= 0, torch.rand_like(module.scores), module.scores
            )
        if isinstance(module, BernoulliGate):
            chosen = torch.rand_like(module.logits) < 0.7
            module.logits.data = torch.where(chosen, 2.0, -2.0)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.2)
    return network
