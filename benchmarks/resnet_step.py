"""Training-step time and memory of a learned ResNet against its twins, as ratios from one run.

    python -m benchmarks.resnet_step                               # depth 38 and 110
    python -m benchmarks.resnet_step --depth 20 38 74 110 164 218 --batch 32
    python -m benchmarks.resnet_step --depth 38 --fan-in 1 5 10 15
    python -m benchmarks.resnet_step --device cuda --amp --markdown results/resnet_step_gpu.md

A step is forward, backward and the optimizer's update; learning adds the update of all scores and
the draw of the next wiring. Memory is the peak over a step of what tensors hold, weights included.

- learning: `ResNet(wiring="learned")` with `GateSGD`
- frozen:   the same network, gates frozen, nothing removed
- previous: `ResNet(wiring="previous")`, the plain ResNet
- outputs:  what the outputs of all blocks take, which learning must keep
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.steps import (
    Step,
    caption,
    peak_memory,
    ratio,
    time_steps,
    top_operators,
    training_step,
)
from wiring_lightning.backbones import ResNet
from wiring_lightning.nn import find_gates

# K of the paper's Table 1; other depths take K in the same proportion.
_FAN_IN = {38: 10, 74: 15, 110: 20}


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    lines = ["# Step time and memory of ResNet", "", _machine(options), "",
             "| depth | K | batch | learning | learning / frozen | learning / previous "
             "| memory, learning | memory, previous | outputs | (learning - outputs) / previous |",
             "|" + " --- |" * 10]  # fmt: skip
    print("\n".join(lines), flush=True)
    for depth in options.depth:
        for fan_in in options.fan_in or [_FAN_IN.get(depth, max(1, round(depth / 6)))]:
            for batch in options.batch:
                lines.append(_row(options, depth, fan_in, batch))
                print(lines[-1], flush=True)
    lines += ["", f"{caption(options.rounds)} Memory in MiB."]
    print(lines[-1])
    if options.profile:
        depth, batch = options.depth[0], options.batch[0]
        step = _steps(options, depth, _FAN_IN.get(depth, depth // 6), batch)["learning"]()
        lines += ["", f"Where a learning step goes, depth {depth}, batch {batch}:", ""]
        lines += top_operators(step, options.device, count=14)
        print("\n".join(lines[-18:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, nargs="+", default=[38, 110])
    parser.add_argument("--fan-in", type=int, nargs="*")
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument(
        "--profile", action="store_true", help="say where a learning step's time goes"
    )
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _row(options: argparse.Namespace, depth: int, fan_in: int, batch: int) -> str:
    makers = _steps(options, depth, fan_in, batch)
    memory = {name: peak_memory(make(), options.device) for name, make in makers.items()}
    times = time_steps(
        {name: make() for name, make in makers.items()}, options.rounds, options.device
    )
    outputs = sum(
        batch * 16 * 2**stage * (32 // 2**stage) ** 2 * 4 * ((depth - 2) // 6) for stage in range(3)
    ) / 2**20  # fmt: skip
    kept = (memory["learning"] - outputs) / memory["previous"]
    cells = [depth, fan_in, batch, f"{statistics.median(times['learning']):.0f} ms",
             ratio(times["learning"], times["frozen"]), ratio(times["learning"], times["previous"]),
             f"{memory['learning']:.0f}", f"{memory['previous']:.0f}", f"{outputs:.0f}",
             f"{kept:.2f}"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _steps(
    options: argparse.Namespace, depth: int, fan_in: int, batch: int
) -> dict[str, Callable[[], Step]]:
    """How to make one training step of each network."""
    images = torch.randn(batch, 3, 32, 32, device=options.device)
    labels = torch.randint(100, (batch,), device=options.device)

    def make(wiring: str, freeze: bool) -> Step:
        torch.manual_seed(0)
        network: nn.Module = ResNet(depth, fan_in, num_classes=100, wiring=wiring)  # type: ignore[arg-type]
        if freeze:
            for gate in find_gates(network).values():
                gate.freeze()
        return training_step(network.to(options.device), images, labels, options.amp)

    return {
        "learning": lambda: make("learned", freeze=False),
        "frozen": lambda: make("learned", freeze=True),
        "previous": lambda: make("previous", freeze=False),
    }


def _machine(options: argparse.Namespace) -> str:
    precision = "bfloat16 autocast" if options.amp else "float32"
    return (
        f"{describe(options.device, options.threads)}, {precision}, 32x32 images, "
        f"`python -m benchmarks.resnet_step {' '.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
