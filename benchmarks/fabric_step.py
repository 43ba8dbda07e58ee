"""Time of a searching step of Budgeted Super Networks against the plain super-network.

    python -m benchmarks.fabric_step                                # ResNet Fabric 3, CNF 8 x 128
    python -m benchmarks.fabric_step --network resnet3 --probability 0.1 0.3 0.5 0.7 0.9 1
    python -m benchmarks.fabric_step --probability 0.2 0.5 0.8 1 --figure results/fabric_step.png

- searching: draw an architecture for each example, forward, backward, price the architectures,
  policy gradient and update of the probabilities (with a learning rate of 0, so they stay)
- plain: forward and backward of the whole super-network, written without gates

Neither updates the weights: that takes the same time in both.
"""

import argparse
import math
import os
import statistics
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import Step, caption, peak_memory, ratio, time_steps, top_operators
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.functional import budgeted_objective
from wiring_lightning.optim import Reinforce
from wiring_lightning.plots import save_figure

_NETWORKS = {
    "resnet3": ("ResNet Fabric, width 3", lambda: ResNetFabric(3)),
    "resnet9": ("ResNet Fabric, width 9", lambda: ResNetFabric(9)),
    "cnf8": ("CNF, 8 columns of 128 channels", lambda: ConvFabric(8, 128)),
    "cnf2": ("CNF, 2 columns of 128 channels", lambda: ConvFabric(2, 128)),
}
# The initial probability of the paper, which is a logit of 3.
_INITIAL = 1 / (1 + math.exp(-3.0))


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    lines = ["# Step time of a search over super-networks", "", _machine(options), "",
             "| network | probability of an edge | multiply-adds used | plain | searching "
             "| searching / plain | memory, searching | memory, plain |",
             "|" + " --- |" * 8]  # fmt: skip
    print("\n".join(lines), flush=True)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in options.network:
        for probability in options.probability or [_INITIAL]:
            row, times = _row(options, name, probability)
            lines.append(row)
            print(row, flush=True)
            curves.setdefault(_NETWORKS[name][0], []).append((probability, times))
    lines += ["", f"{caption(options.rounds)} "
              "Memory in MiB: the peak over a step of what tensors hold. "
              "Multiply-adds used are the mean over the drawn architectures."]  # fmt: skip
    print(lines[-1])
    if options.profile:
        searching, _ = _steps(options, options.network[0], _INITIAL)
        lines += ["", "Where a searching step goes:", ""]
        lines += top_operators(searching, options.device, count=14)
        print("\n".join(lines[-18:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.figure:
        save_figure(_draw(curves), options.figure)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", nargs="+", default=["resnet3", "cnf8"], choices=list(_NETWORKS)
    )
    parser.add_argument(
        "--probability", type=float, nargs="+", help="of every edge; by default the initial 0.95"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument(
        "--profile", action="store_true", help="say where a searching step's time goes"
    )
    parser.add_argument("--markdown", help="file to write the table into")
    parser.add_argument("--figure", help="file to draw time over probability into")
    return parser.parse_args()


def _row(options: argparse.Namespace, name: str, probability: float) -> tuple[str, float]:
    """A row of the table, and the median ratio."""
    searching, plain = _steps(options, name, probability)
    memory = [peak_memory(step, options.device) for step in (searching, plain)]
    times = time_steps({"searching": searching, "plain": plain}, options.rounds, options.device)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    ratios = [a / b for a, b in zip(times["searching"], times["plain"], strict=True)]
    cells = [_NETWORKS[name][0], f"{probability:.2f}", f"{_used(options, name, probability):.0%}",
             f"{medians['plain']:.0f} ms", f"{medians['searching']:.0f} ms",
             ratio(times["searching"], times["plain"]),
             *(f"{mebibytes:.0f}" for mebibytes in memory)]  # fmt: skip
    return "| " + " | ".join(cells) + " |", statistics.median(ratios)


def _used(options: argparse.Namespace, name: str, probability: float) -> float:
    """Share of the multiply-adds that the drawn architectures take."""
    network = _network(options, name, probability)
    assert network.gate is not None
    drawn = network.gate.draw(1000)
    wiring = network.wiring()
    batch = wiring.with_active(network.active_edges(drawn))
    whole = costs.multiply_adds(wiring, live=False)
    return float(costs.multiply_adds(batch).double().mean() / whole)


def _network(options: argparse.Namespace, name: str, probability: float) -> FabricNetwork:
    torch.manual_seed(0)
    network: FabricNetwork = _NETWORKS[name][1]().to(options.device)
    assert network.gate is not None
    network.gate.seed(0)
    logit = math.inf if probability == 1 else math.log(probability / (1 - probability))
    nn.init.constant_(network.gate.logits, logit)
    return network


def _steps(options: argparse.Namespace, name: str, probability: float) -> tuple[Step, Step]:
    """A searching step and a plain one, with the same weights."""
    images = torch.randn(options.batch, 3, 32, 32, device=options.device)
    labels = torch.randint(10, (options.batch,), device=options.device)
    network = _network(options, name, probability)
    other = _network(options, name, probability)
    assert network.gate is not None
    optimizer = Reinforce([network.gate], lr=0.0)
    wiring = network.wiring()
    budget = float(costs.multiply_adds(wiring, live=False)) / 2

    def searching() -> None:
        network.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=options.amp):
            losses = functional.cross_entropy(network(images), labels, reduction="none")
        losses.mean().backward()
        assert network.gate is not None
        assert network.gate.drawn is not None
        architectures = wiring.with_active(network.active_edges(network.gate.drawn))
        prices = costs.multiply_adds(architectures)
        optimizer.observe(budgeted_objective(losses.detach(), prices, budget, 1 / budget))
        optimizer.step()

    def plain() -> None:
        other.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=options.amp):
            loss = functional.cross_entropy(_plain_forward(other, images), labels)
        loss.backward()

    return searching, plain


def _plain_forward(network: FabricNetwork, images: Tensor) -> Tensor:
    """The whole super-network, node after node."""
    states = [network.stem(images)]
    edges = network.fabric.edges()
    for node in range(1, len(network.fabric.spaces)):
        total = None
        for edge in edges:
            if edge.target == node:
                state = states[edge.source]
                part = state if edge.module is None else edge.module(state)
                total = part if total is None else total + part
        assert total is not None
        states.append(total.relu_())
    logits: Tensor = network.classifier(states[-1].mean((2, 3)))
    return logits


def _draw(curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Step time over the probability of an edge."""
    figure = Figure(figsize=(6, 4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1, color="#8A939C", linewidth=1, linestyle="--")
    for (name, points), color in zip(
        curves.items(), ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=False
    ):
        probabilities, ratios = zip(*sorted(points), strict=True)
        axes.plot(probabilities, ratios, marker="o", color=color, label=name)
    axes.set(xlabel="probability of an edge", ylabel="searching step / plain step", xlim=(0, 1.02))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _machine(options: argparse.Namespace) -> str:
    precision = "bfloat16 autocast" if options.amp else "float32"
    return (
        f"{describe(options.device, options.threads)}, {precision}, 32x32 images, batch "
        f"{options.batch}, `python -m benchmarks.fabric_step {' '.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
