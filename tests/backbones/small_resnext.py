"""A small ResNeXt, and steps of training for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.backbones.plain_resnext import scramble_statistics
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate

WIRINGS = ("learned", "full", "random", "covered", "real")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DEPTH, WIDTH, C = 11, 2, 4
LAYOUT = ((1, 1, 1), 16, 64, WIDTH, C, 10)  # the same in the words of the plain twins


def small(fan_in: int, **options: object) -> ResNeXt:
    """One module a stage, with batch norms and gates that are not as at the start."""
    network = ResNeXt(DEPTH, WIDTH, C, fan_in, **options).double()
    scramble_statistics(network)
    with torch.no_grad():
        for gate in network.connections.values():
            if not gate.fixed:
                gate.scores.copy_(torch.rand(C, C).softmax(1))
    return network


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 8, 8, dtype=torch.float64), torch.arange(size) % 10


def backward(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    images = images.to(next(network.parameters()).dtype, copy=True).requires_grad_()
    logits = network(images)
    functional.cross_entropy(logits, labels).backward()
    return logits.detach(), images.grad


def gates(network: ResNeXt) -> list[Gate]:
    return list(network.connections.values())


def own_parameters(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.endswith("scores"))


def train(*networks: nn.Module, steps: int = 3) -> None:
    """Some steps of SGD for every network on the same batches."""
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in networks]
    for _ in range(steps):
        images, labels = batch()
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            backward(network, images, labels)
            optimizer.step()
