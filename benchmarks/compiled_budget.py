"""What a training step asks of a device under torch.compile: kernels and bytes of inductor's plan.

Inductor decides which operations become one kernel, and counts what its kernels read and write.
Nothing is translated or run on a device, so no GPU and no compiler is needed. A method is compared
with its plain twin: the same network without the method. Not counted: the optimizer and what a
method does after its step, which are not compiled.

    python -m benchmarks.compiled_budget
    python -m benchmarks.compiled_budget --networks resnet --batch 128
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.scheduler import NopKernelSchedulerNode, Scheduler
from torch._inductor.virtualized import V
from torch.fx import GraphModule
from torch.nn import functional

from benchmarks.twins import CLASSES, SIDE, pairs

# Those with a plain twin of other layers. A fabric that is searched is not one graph.
NETWORKS = ("resnext", "resnet", "sparsenet", "mobilenet")


class Plan(NamedTuple):
    """Inductor's plan of one graph.

    Args:
        kernels: how many it starts.
        bytes: how many they read and write.
    """

    kernels: int
    bytes: int


class _Planned(BaseException):
    """Inductor has decided on its kernels; what follows is not needed."""


class Planner:
    """A backend of torch.compile that counts what inductor would do, and runs the plain graph."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def __call__(self, graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Plan the forward and the backward pass of a graph."""
        return compile_fx(graph, inputs, inner_compile=self._plan)

    def _plan(self, graph: GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        with mock.patch.object(Scheduler, "codegen", self._count):
            try:
                compile_fx_inner(deepcopy(graph), inputs, **options)
            except _Planned:
                return make_boxed_func(graph.forward)
        raise RuntimeError("inductor planned no kernels")

    def _count(self) -> None:
        count, *_ = V.graph.count_bytes()
        nodes = V.graph.scheduler.nodes
        kernels = sum(not isinstance(node, NopKernelSchedulerNode) for node in nodes)
        self.plans.append(Plan(kernels, count))
        raise _Planned


def measure(network: nn.Module, batch: int, side: int = SIDE) -> tuple[Plan, float]:
    """The plan of a forward and a backward pass, and the seconds that it took."""
    planner = Planner()
    torch._dynamo.reset()
    images, labels = torch.randn(batch, 3, side, side), torch.randint(CLASSES, (batch,))
    start = time.perf_counter()
    compiled = torch.compile(network, backend=planner, fullgraph=True)
    functional.cross_entropy(compiled(images), labels).backward()
    seconds = time.perf_counter() - start
    forward, backward = planner.plans
    return Plan(forward.kernels + backward.kernels, forward.bytes + backward.bytes), seconds


def table(names: Sequence[str], batch: int, tiny: bool = False) -> list[str]:
    """The table in Markdown; progress goes to stderr."""
    lines = [
        "| network | kernels | MB | seconds | kernels / plain | bytes / plain |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        pair = pairs(tiny)[name]
        plain = None
        for kind, make in (("plain", pair.plain), ("method", pair.network)):
            print(f"{name}: {kind}", file=sys.stderr, flush=True)
            torch.manual_seed(0)
            plan, seconds = measure(make(), batch)
            plain = plain or plan
            what = f"plain: {pair.twin}" if kind == "plain" else pair.method
            lines.append(
                f"| {what} | {plan.kernels:,} | {plan.bytes / 1e6:,.0f} | {seconds:.0f} "
                f"| {plan.kernels / plain.kernels:.2f} | {plan.bytes / plain.bytes:.2f} |"
            )
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tiny", action="store_true", help="small networks, for a quick look")
    parser.add_argument("--markdown", help="file to write the table into")
    options = parser.parse_args(arguments)
    command = f"`python -m benchmarks.compiled_budget {' '.join(arguments or sys.argv[1:])}`"
    lines = [
        "# What a compiled step asks of a device",
        "",
        f"Inductor's plan on a CPU, torch {torch.__version__}, {SIDE}x{SIDE} images, batch "
        f"{options.batch}, {command}. Bytes are inductor's own count. Seconds are those of one run "
        "until the plan is made; translating the kernels comes on top.",
        "",
        *table(options.networks, options.batch, options.tiny),
    ]
    print("\n".join(lines))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
