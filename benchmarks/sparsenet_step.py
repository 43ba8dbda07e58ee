"""Training-step time and memory of SparseNet against a list with concatenations, as ratios.

    python -m benchmarks.sparsenet_step                                  # 40-24, BC-100-24, +110
    python -m benchmarks.sparsenet_step --network 40-24 --batch 32 64 --rounds 15
    python -m benchmarks.sparsenet_step --network 40-24-dense bc-100-24-dense
    python -m benchmarks.sparsenet_step --device cuda --amp --markdown results/sparsenet_step_gpu.md

A step is forward, backward and the optimizer's update. Memory is the peak over a step of what
tensors hold, weights included.

- kept:         `SparseNet` or, for `+depth`, `SparseResNet`
- checkpointed: the same with `checkpointing=True`
- own:          `SparseNet` with `shared_statistics=False`, where every layer computes the batch
                statistics of all that it reads; a sum has one reader, so `+depth` shares nothing
- list:         plain layers that keep outputs in a list and concatenate, or sum, what they read
- list, last:   the same, given images in `channels_last`, which the package's networks switch to on
                a CPU by themselves
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
from tests.backbones.plain_sparsenet import ListSparseNet, ListSparseResNet, PreActivationResNet
from wiring_lightning.backbones import SparseNet, SparseResNet


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(options.threads)
    lines = ["# Step time and memory of SparseNet", "", _machine(options), "",
             "| network | batch | kept | kept / list | kept / list, last | checkpointed / list "
             "| kept / own | memory, list | kept / list | checkpointed / list |",
             "|" + " --- |" * 10]  # fmt: skip
    print("\n".join(lines), flush=True)
    for network in options.network:
        for batch in options.batch:
            lines.append(_row(options, network, batch))
            print(lines[-1], flush=True)
    lines += ["", f"{caption(options.rounds)} Memory in MiB."]
    print(lines[-1])
    if options.profile:
        network, batch = options.network[0], options.batch[0]
        lines += ["", f"Where a step of {network} goes, batch {batch}:", ""]
        lines += top_operators(_steps(options, network, batch)["kept"](), options.device, count=14)
        print("\n".join(lines[-18:]))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network",
        nargs="+",
        default=["40-24", "bc-100-24", "+110"],
        help="depth-growth, bc-depth-growth or +depth, each may end in -dense",
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--profile", action="store_true", help="say where a step's time goes")
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _row(options: argparse.Namespace, network: str, batch: int) -> str:
    makers = _steps(options, network, batch)
    memory = {
        name: peak_memory(make(), options.device) for name, make in makers.items() if name != "own"
    }
    times = time_steps(
        {name: make() for name, make in makers.items()}, options.rounds, options.device
    )
    cells = [network, batch, f"{statistics.median(times['kept']):.0f} ms",
             ratio(times["kept"], times["list"]), ratio(times["kept"], times["list, last"]),
             ratio(times["checkpointed"], times["list"]), ratio(times["kept"], times.get("own")),
             f"{memory['list']:.0f}",
             f"{memory['kept'] / memory['list']:.2f}",
             f"{memory['checkpointed'] / memory['list']:.2f}"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _steps(options: argparse.Namespace, network: str, batch: int) -> dict[str, Callable[[], Step]]:
    """How to make one training step of each network."""
    images = torch.randn(batch, 3, 32, 32, device=options.device)
    labels = torch.randint(100, (batch,), device=options.device)

    def make(kind: str) -> Step:
        torch.manual_seed(0)
        model = _listed(network) if kind.startswith("list") else _ours(network, kind)
        layout = torch.channels_last if kind == "list, last" else torch.contiguous_format
        inputs = images.contiguous(memory_format=layout)
        return training_step(model.to(options.device), inputs, labels, options.amp)

    kinds = ["kept", "checkpointed", "list", "list, last"]
    if not network.startswith("+"):
        kinds.append("own")
    return {kind: lambda kind=kind: make(kind) for kind in kinds}  # type: ignore[misc]


def _ours(network: str, kind: str) -> nn.Module:
    name, pattern = _name_and_pattern(network)
    frugal = kind == "checkpointed"
    if name.startswith("+"):
        return SparseResNet(int(name), pattern, num_classes=100, checkpointing=frugal)  # type: ignore[arg-type]
    depth, growth = map(int, name.removeprefix("bc-").split("-"))
    bottleneck = name.startswith("bc-")
    return SparseNet(
        depth,
        growth,
        bottleneck,
        compression=0.5 if bottleneck else 1.0,
        pattern=pattern,  # type: ignore[arg-type]
        num_classes=100,
        checkpointing=frugal,
        shared_statistics=kind != "own",
    )


def _listed(network: str) -> nn.Module:
    name, pattern = _name_and_pattern(network)
    if name.startswith("+"):
        kind = PreActivationResNet if pattern == "dense" else ListSparseResNet
        return kind((int(name) - 2) // 9, classes=100)
    depth, growth = map(int, name.removeprefix("bc-").split("-"))
    bottleneck = name.startswith("bc-")
    return ListSparseNet(
        (depth - 4) // (6 if bottleneck else 3),
        (growth,) * 3,
        bottleneck,
        0.5 if bottleneck else 1.0,
        base=2 if pattern == "log" else None,
        classes=100,
    )


def _name_and_pattern(network: str) -> tuple[str, str]:
    name = network.removesuffix("-dense")
    return name, "log" if name == network else "dense"


def _machine(options: argparse.Namespace) -> str:
    precision = "bfloat16 autocast" if options.amp else "float32"
    return (
        f"{describe(options.device, options.threads)}, {precision}, 32x32 images, "
        f"`python -m benchmarks.sparsenet_step {' '.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
