"""Training-step time of a learned ResNeXt against its twins, as ratios from one run.

    python -m benchmarks.resnext_step                         # {29,8,8}, batch 16 and 64
    python -m benchmarks.resnext_step --cardinality 4 8 16 32 --batch 16
    python -m benchmarks.resnext_step --device cuda --amp --markdown results/resnext_step_gpu.md

A step is forward, backward and the optimizer's update; learning adds the update of all scores and
the draw of the next wiring. Per round every network takes one step, in random order, so that a
machine that slows down slows all of them; a ratio is the median over the rounds of the ratio within
a round.

- learning: `ResNeXt(wiring="learned")` with `GateSGD`
- frozen:   the same network, gates frozen, nothing removed
- loop:     the same function written as a Python loop over targets, sources and branches
- full:     `ResNeXt(wiring="full")`, this package's plain ResNeXt
- plain:    the same function from `torch.nn` layers: grouped convolutions, norms, and a sum
- dense:    ResNeXt as in torchvision, where one dense 1 x 1 convolution and one batch norm sum the
            branches: not the same function, but the cheapest network of the shape
"""

import argparse
import os
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import Step, caption, ratio, time_steps, top_operators, training_step
from tests.backbones.plain_resnext import LoopGateConnect, copy_weights, network_pairs
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import find_gates


class PlainModule(nn.Module):
    """A multi-branch module from standard layers, all branches on one input."""

    def __init__(
        self, cardinality: int, in_channels: int, width: int, out: int, stride: int, dense: bool
    ) -> None:
        super().__init__()
        inner = cardinality * width
        self.cardinality = 1 if dense else cardinality
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=cardinality, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, self.cardinality * out, 1, groups=self.cardinality, bias=False),
            nn.BatchNorm2d(self.cardinality * out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Branches side by side, summed, plus the shortcut."""
        branches = self.residual(x).unflatten(1, (self.cardinality, -1))
        return functional.relu(self.shortcut(x) + branches.sum(1))


class PlainResNeXt(nn.Sequential):
    """A ResNeXt of the same shape from standard layers."""

    def __init__(
        self, depth: int, width: int, cardinality: int, dense: bool, classes: int = 100
    ) -> None:
        channels, modules = 16, []
        for stage in range(3):
            for index in range((depth - 2) // 9):
                stride = 2 if stage and not index else 1
                out = 64 * 2**stage
                modules.append(
                    PlainModule(cardinality, channels, width * 2**stage, out, stride, dense)
                )
                channels = out
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *modules,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes),
        )  # fmt: skip


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    lines = [f"# Step time of ResNeXt {{{options.depth},{options.width},C}}", "", _machine(options)]
    lines += ["", "| C | batch | learning | " + " | ".join(
        f"learning / {name}" for name in ("frozen", "loop", "full", "plain", "dense")
    ) + " |", "|" + " --- |" * 8]  # fmt: skip
    print("\n".join(lines), flush=True)
    for cardinality in options.cardinality:
        for batch in options.batch:
            steps = _steps(options, cardinality, batch)
            times = time_steps(steps, options.rounds, options.device)
            row = [str(cardinality), str(batch), f"{statistics.median(times['learning']):.1f} ms"]
            row += [ratio(times["learning"], times.get(name)) for name in
                    ("frozen", "loop", "full", "plain", "dense")]  # fmt: skip
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    lines += ["", caption(options.rounds)]
    print(lines[-1])
    if options.profile:
        cardinality, batch = options.cardinality[0], options.batch[0]
        step = _steps(options, cardinality, batch)["learning"]
        lines += ["", f"Where a learning step goes, C = {cardinality}, batch {batch}:", ""]
        lines += top_operators(step, options.device)
        print("\n".join(lines[-14:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=29)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--cardinality", type=int, nargs="+", default=[8])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--no-loop", action="store_true", help="leave the slow loop twin out")
    parser.add_argument(
        "--profile", action="store_true", help="say where a learning step's time goes"
    )
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _steps(options: argparse.Namespace, cardinality: int, batch: int) -> dict[str, Step]:
    """One training step of each network."""
    shape = (options.depth, options.width, cardinality)
    torch.manual_seed(0)
    learned = ResNeXt(*shape, fan_in=cardinality // 2, num_classes=100)
    frozen = ResNeXt(*shape, fan_in=cardinality // 2, num_classes=100)
    for gate in find_gates(frozen).values():
        gate.freeze()
    networks: dict[str, nn.Module] = {
        "learning": learned,
        "frozen": frozen,
        "full": ResNeXt(*shape, num_classes=100, wiring="full"),
        "plain": PlainResNeXt(*shape, dense=False),
        "dense": PlainResNeXt(*shape, dense=True),
    }
    if not options.no_loop:
        modules = (options.depth - 2) // 9
        loop = LoopGateConnect(
            (modules,) * 3, 16, 64, options.width, cardinality, 100, fan_in=cardinality // 2,
            identity="mean",
        )  # fmt: skip
        copy_weights(network_pairs(learned, loop))
        gates = [gate.active.float() for gate in find_gates(learned).values()]
        loop.gates = [gates[0], *(g.to(options.device).requires_grad_() for g in gates)]
        networks["loop"] = loop
    images = torch.randn(batch, 3, 32, 32, device=options.device)
    labels = torch.randint(100, (batch,), device=options.device)
    return {
        name: training_step(network.to(options.device), images, labels, options.amp)
        for name, network in networks.items()
    }


def _machine(options: argparse.Namespace) -> str:
    precision = "bfloat16 autocast" if options.amp else "float32"
    return (
        f"{describe(options.device, options.threads)}, {precision}, 32x32 images, K = C / 2, "
        f"`python -m benchmarks.resnext_step {' '.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
