"""What a training step asks of a device that is not the CPU: kernels, bytes, waits of the host.

Counted on a simulated device, so no GPU is needed; kernels and bytes are estimates (one kernel for
most operations, and all inputs and outputs of each in memory), waits are exact. A method is
compared with its plain twin: the same network without the method.

    python -m benchmarks.device_budget
    python -m benchmarks.device_budget --networks sparsenet --busiest
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.dnw_step import edge_sets
from benchmarks.twins import CLASSES, SIDE, Pair, pairs, training_step
from tests.simulated_device import RECORD, simulated, unavailable
from wiring_lightning.nn import find_bernoulli_gates, find_gates
from wiring_lightning.optim import StraightThrough

Mode = Literal["learning", "frozen", "plain"]
MODES: tuple[Mode, ...] = ("learning", "frozen", "plain")


@dataclass(frozen=True)
class Budget:
    """What one training step asks of the device.

    Args:
        kernels: how many it starts.
        bytes: how many they read and write.
        waits: how often the host waits.
        busiest: the lines that start most kernels, with their number.
    """

    kernels: int
    bytes: int
    waits: int
    busiest: list[tuple[str, int]]


def measure(pair: Pair, mode: Mode, batch: int, side: int = SIDE) -> Budget:
    """Count one training step of a method, learning or frozen, or of its plain twin."""
    torch.manual_seed(0)
    network = pair.plain() if mode == "plain" else pair.network()
    images, labels = torch.randn(batch, 3, side, side), torch.randint(CLASSES, (batch,))
    with simulated() as device:
        network.to(device)
        learn = {"learning": pair.learn, "frozen": _frozen(network), "plain": None}[mode]
        step = training_step(network, learn, images.to(device), labels.to(device))
        step()  # what is prepared once is not counted
        with RECORD.recording():
            step()
    kernels = RECORD.kernels
    return Budget(kernels.total(), RECORD.bytes, RECORD.waits.total(), kernels.most_common(8))


def _frozen(network: nn.Module) -> Callable[[nn.Module, Optimizer], Callable[[Tensor], None]]:
    """Freezes whatever the network can learn about its wiring."""

    def learn(_: nn.Module, optimizer: Optimizer) -> Callable[[Tensor], None]:
        gates = [*find_gates(network).values(), *find_bernoulli_gates(network).values()]
        for gate in gates:
            gate.freeze()
        if not gates:
            StraightThrough(optimizer, edge_sets(network)).freeze()
        return lambda _: None

    return learn


def table(
    names: list[str], batch: int, side: int, tiny: bool = False, busiest: bool = False
) -> list[str]:
    """The table in Markdown; progress goes to stderr."""
    lines = [
        "| method | step | kernels | MB | waits | kernels / plain | bytes / plain |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        pair = pairs(tiny)[name]
        modes = MODES if pair.learn is not None else ("frozen", "plain")
        budgets = {}
        for mode in modes:
            print(f"{name}: {mode}", file=sys.stderr, flush=True)
            budgets[mode] = measure(pair, mode, batch, side)
        plain = budgets["plain"]
        for mode, budget in budgets.items():
            what = f"plain: {pair.twin}" if mode == "plain" else mode
            lines.append(
                f"| {pair.method.rpartition(',')[0] or pair.method} | {what} | {budget.kernels:,} "
                f"| {budget.bytes / 1e6:,.0f} | {budget.waits} "
                f"| {budget.kernels / plain.kernels:.2f} | {budget.bytes / plain.bytes:.2f} |"
            )
            if busiest:
                print(*budget.busiest, sep="\n", file=sys.stderr)
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    names = [name for name in pairs() if not name.endswith("-frozen")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--side", type=int, default=SIDE, help="height and width of the images, not for graphs"
    )
    parser.add_argument("--tiny", action="store_true", help="small networks, for a quick look")
    parser.add_argument("--busiest", action="store_true", help="lines that start most kernels")
    parser.add_argument("--markdown", help="file to write the table into")
    options = parser.parse_args(arguments)
    if (reason := unavailable()) is not None:
        sys.exit(f"the device cannot be simulated: {reason}")
    command = f"`python -m benchmarks.device_budget {' '.join(arguments or sys.argv[1:])}`"
    lines = [
        "# What a step asks of a device",
        "",
        f"Counted on a simulated device, torch {torch.__version__}, "
        f"{options.side}x{options.side} images, batch {options.batch}, {command}. "
        "Kernels and bytes are estimates, waits are exact.",
        "",
        *table(options.networks, options.batch, options.side, options.tiny, options.busiest),
    ]
    print("\n".join(lines))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
