"""Training-step time of the sparse family against the plain step, as ratios from one run.

    python -m benchmarks.mask_step
    python -m benchmarks.mask_step --network cifar --rounds 9 --markdown results/mask_step_cifar.md

A step is forward, backward and SGD with momentum, of a ResNet-18 on 32 x 32 pixels: torchvision's,
whose stem leaves 8 x 8 pixels (the least work beside which a rule's cost can hide), or with the
3 x 3 stem that is usual for such images. All convolutions and the classifier are sparse, 10 % of
the weights, ERK. Masks change in every hundredth step at most, so such a step is timed by itself;
"mean" spreads its cost over a hundred steps.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import Step, caption, peak_memory, ratio, time_steps
from wiring_lightning.functional.densities import erdos_renyi_densities, round_counts
from wiring_lightning.functional.mask_times import MaskTimes
from wiring_lightning.optim import EdgeSet, StraightThrough
from wiring_lightning.optim.mask_scores import gradient, magnitude, random
from wiring_lightning.optim.n_of_m import BlockEdgeSet, SparseRefined
from wiring_lightning.optim.scheduled_masks import ScheduledMasks

_DENSITY = 0.1
_PLAIN = "plain"
_EVERY = 100
# What makes a rule, from an optimizer and its sparse layers, and what to call before each step.
Rule = Callable[[SGD, Sequence[nn.Module]], Callable[[], None]]


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    command = f"`python -m benchmarks.mask_step {' '.join(sys.argv[1:])}`"
    lines = ["# Step time of sparse training", "",
             f"{describe(options.device, options.threads)}, float32, ResNet-18 ({options.network}) "
             f"on 32 x 32 pixels, batch {options.batch}, {command}", "",
             "| rule | step | over plain | memory of a step |", "|" + " --- |" * 4]  # fmt: skip
    print("\n".join(lines), flush=True)
    steps = {name: _step(options, rule) for name, rule in _RULES.items()}
    for _ in range(options.warm_up):
        steps["DNW"]()
    times = time_steps(steps, options.rounds, options.device)
    for name, own in times.items():
        memory = peak_memory(steps[name], options.device)
        lines.append(
            f"| {name} | {statistics.median(own):.0f} ms | {ratio(own, times[_PLAIN])} | "
            f"{memory:.0f} MiB |"
        )
        print(lines[-1], flush=True)
    ordinary, change = (statistics.median(times[name]) for name in ("masks stay", "RigL's change"))
    mean = (change + (_EVERY - 1) * ordinary) / _EVERY / statistics.median(times[_PLAIN])
    lines += ["", f"A mean step of RigL, of which every {_EVERY}th changes masks: {mean:.2f}.", "",
              caption(options.rounds)]  # fmt: skip
    print("\n".join(lines[-3:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["torchvision", "cifar"], default="torchvision")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--warm-up", type=int, default=100, help="steps of DNW before timing, as in dnw_step"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _scheduled(every: int, by_gradient: bool, optimizer: SGD, layers: Sequence[nn.Module]) -> Step:
    """The base of SET, RigL and pruning; its masks change in each step, or never."""
    times = MaskTimes(end=10**9, every=every, fraction=0.3)
    grow = gradient if by_gradient else random
    rule = ScheduledMasks(optimizer, _edge_sets(layers), times, magnitude, grow)
    return rule.mask_gradients


def _straight_through(optimizer: SGD, layers: Sequence[nn.Module]) -> Step:
    StraightThrough(optimizer, _edge_sets(layers))
    return _nothing


def _n_of_m(optimizer: SGD, layers: Sequence[nn.Module]) -> Step:
    # The first layer stays dense: its three channels cannot be cut into blocks of four.
    sets = [BlockEdgeSet([layer.weight], layer.weight.numel() // 2) for layer in layers[1:]]
    return SparseRefined(optimizer, sets).decay_absent


def _nothing() -> None:
    """Before a step without a rule."""


_RULES: dict[str, Rule] = {
    _PLAIN: lambda _optimizer, _layers: _nothing,
    "masks stay": partial(_scheduled, 10**6, True),
    "RigL's change": partial(_scheduled, 1, True),
    "SET's change": partial(_scheduled, 1, False),
    "DNW": _straight_through,
    "2:4": _n_of_m,
}


def _edge_sets(layers: Sequence[nn.Module]) -> list[EdgeSet]:
    weights = [layer.weight for layer in layers]
    shares = erdos_renyi_densities([weight.shape for weight in weights], _DENSITY, True)
    counts = round_counts(shares, [weight.numel() for weight in weights], 1, True)
    return [EdgeSet([weight], k) for weight, k in zip(weights, counts, strict=True)]


def _step(options: argparse.Namespace, make: Rule) -> Step:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    if options.network == "cifar":
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    network.to(options.device)
    images = torch.randn(options.batch, 3, 32, 32, device=options.device)
    labels = torch.randint(10, (options.batch,), device=options.device)
    optimizer = SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return partial(_train, network, optimizer, make(optimizer, layers), images, labels)


def _train(
    network: nn.Module,
    optimizer: SGD,
    before_step: Callable[[], None],
    images: Tensor,
    labels: Tensor,
) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(network(images), labels).backward()
    before_step()
    optimizer.step()


if __name__ == "__main__":
    main()
