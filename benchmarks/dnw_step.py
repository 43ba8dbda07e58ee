"""Training-step time of DNW's rule against the same network without it, as ratios from one run.

    python -m benchmarks.dnw_step
    python -m benchmarks.dnw_step --networks resnet50 --batch 32 128 --profile
    python -m benchmarks.dnw_step --device cuda --markdown results/dnw_step_gpu.md

A step is forward, backward and SGD with momentum. With the rule, `StraightThrough` then chooses the
edges again and writes the sparse weights. Without it nothing is chosen: all weights of the same
network are trained.

- MobileNetV1DNW: width 0.225, 10 classes; 158,944 edges of 7.0 million possible ones
- NeuralGraph: the paper's static one, 32,000 edges
- resnet50: torchvision's, every convolution and the classifier at 10 % density
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import Step, caption, ratio, time_steps, top_operators
from wiring_lightning.backbones import MobileNetV1DNW, NeuralGraph
from wiring_lightning.nn import find_adjacencies
from wiring_lightning.optim import EdgeSet, StraightThrough

_DENSITY = 0.1  # of layers without their own number of edges
# Steps with the rule before timing. After them the band around the threshold is as narrow as after
# about 250 steps on CIFAR-10, 1e-4 of the threshold, and stays so.
_WARM_UP = 100

_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV1DNW": MobileNetV1DNW,
    "NeuralGraph": NeuralGraph,
    "resnet50": partial(torchvision.models.resnet50, num_classes=10),
}


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    command = f"`python -m benchmarks.dnw_step {' '.join(sys.argv[1:])}`"
    lines = ["# Step time of DNW's rule", "",
             f"{describe(options.device, options.threads)}, float32, 32x32 images, {command}", "",
             "| network | batch | weights | edges | with the rule | without | ratio |",
             "|" + " --- |" * 7]  # fmt: skip
    print("\n".join(lines), flush=True)
    for name in options.networks:
        for batch in options.batch:
            lines.append(_row(options, name, batch))
            print(lines[-1], flush=True)
    lines += ["", caption(options.rounds)]
    print(lines[-1])
    if options.profile:
        step = _step(options, options.networks[0], options.batch[0], rule=True)
        lines += ["", f"Where a step of {options.networks[0]} with the rule goes:", ""]
        lines += top_operators(step, options.device, count=16)
        print("\n".join(lines[-20:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(_NETWORKS), default=list(_NETWORKS))
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of a step with the rule goes"
    )
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _row(options: argparse.Namespace, name: str, batch: int) -> str:
    steps = {rule: _step(options, name, batch, rule == "with") for rule in ("with", "without")}
    for _ in range(_WARM_UP):  # until the threshold moves as it does in training
        steps["with"]()
    times = time_steps(steps, options.rounds, options.device)
    sets = edge_sets(_NETWORKS[name]())
    weights = sum(weight.numel() for each in sets for weight in each.weights)
    cells = [
        name,
        batch,
        f"{weights:,}",
        f"{sum(each.k for each in sets):,}",
        *(f"{statistics.median(times[rule]):.0f} ms" for rule in ("with", "without")),
        ratio(times["with"], times["without"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def edge_sets(network: nn.Module) -> list[EdgeSet]:
    """The edges of a network's graphs, or of all its layers, as `callbacks.DNW` finds them."""
    graphs = find_adjacencies(network)
    if graphs:
        return [
            EdgeSet([graph.weight], graph.edges, [graph.usable], [graph.take_absent()])
            for graph in graphs.values()
        ]
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return [
        EdgeSet([layer.weight], max(1, round(_DENSITY * layer.weight.numel()))) for layer in layers
    ]


def _step(options: argparse.Namespace, name: str, batch: int, rule: bool) -> Step:
    torch.manual_seed(0)
    network = _NETWORKS[name]().to(options.device)
    images = torch.randn(batch, 3, 32, 32, device=options.device)
    labels = torch.randint(10, (batch,), device=options.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    if rule:
        StraightThrough(optimizer, edge_sets(network))
    return partial(_train, network, optimizer, images, labels)


def _train(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(network(images), labels).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
