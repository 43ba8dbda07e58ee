"""At which density layers with their weight as CSR are faster than dense ones.

    python -m benchmarks.sparse_layout
    python -m benchmarks.sparse_layout --sizes 512 2048 --batches 1 64 --markdown FILE
    python -m benchmarks.sparse_layout --sizes --convolutions 1x1:512:128:28 --images 1 16
    python -m benchmarks.sparse_layout --network resnet50 --rounds 11

Weights are zero in places chosen at random, as single weights are chosen by `DNW`. The sparse
layers are those of `nn.store_sparse`; the default convolutions are some of ResNet-50 at 224 x 224.
With `--network`, a whole network of torchvision is measured after `nn.store_sparse`, beside the
dense network in channels_last. Every result is checked against the dense one. A ratio below 1 says
that it takes less time than the dense one.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import describe, keep_freed_memory, synchronize
from benchmarks.sparse_cases import (
    Case,
    ChannelsLast,
    LinearCase,
    as_sparse,
    convolution,
    keep_some,
    sparse_network,
)
from benchmarks.steps import caption, ratio
from wiring_lightning.nn import SparseConv2d, store_sparse

CONVOLUTIONS = [
    "1x1:256:64:56", "1x1:512:128:28", "1x1:1024:256:14", "1x1:2048:512:7", "3x3:256:256:14",
    "3x3:512:512:7",
]  # fmt: skip
DENSITIES = [0.01, 0.05, 0.1, 0.2, 0.3, 0.5]
NETWORK_DENSITIES = [0.02, 0.05, 0.1]


def main() -> None:
    keep_freed_memory()
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    lines = []
    for line in _of_a_network(options) if options.network else _of_layers(options):
        lines.append(line)
        print(line, flush=True)
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="of linear layers")
    parser.add_argument(
        "--convolutions",
        type=convolution,
        nargs="*",
        default=[convolution(text) for text in CONVOLUTIONS],
        help="each as KxK:INPUTS:OUTPUTS:SIZE",
    )
    parser.add_argument(
        "--images", type=int, nargs="+", default=[1, 16], help="batches of convolutions"
    )
    parser.add_argument("--network", help="measure this network of torchvision instead of layers")
    parser.add_argument("--image-size", type=int, default=224, help="of the network")
    parser.add_argument("--densities", type=float, nargs="+")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", help="file to write the table into")
    return parser


def _heading(options: argparse.Namespace, title: str) -> list[str]:
    command = f"`python -m benchmarks.sparse_layout {' '.join(sys.argv[1:])}`"
    return [f"# {title}", "", f"{describe(options.device, options.threads)}, {command}", ""]


def _of_layers(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table of single layers."""
    densities = options.densities or DENSITIES
    yield from _heading(options, "Time of layers with their weight as CSR, over the dense layers")
    columns = [f"density {density:g}" for density in densities]
    yield f"| layer | batch | {' | '.join(columns)} | faster up to |"
    yield "| --- " * (3 + len(columns)) + "|"
    for size in options.sizes:
        for batch in options.batches:
            yield _row(options, LinearCase(size), batch, densities)
    for case in options.convolutions:
        for batch in options.images:
            yield _row(options, case, batch, densities)
    yield ""
    yield caption(options.rounds)
    yield "The last column is the largest of these densities up to which all medians are below 1."


def _row(options: argparse.Namespace, case: Case, batch: int, densities: list[float]) -> str:
    cells, medians = [], []
    for density in densities:
        layer = case.layer()
        keep_some(layer.weight, density)
        inputs = case.inputs(batch).to(options.device)
        layer.to(options.device)
        sparse, dense = measure(as_sparse(layer), layer, inputs, options.rounds)
        cells.append(ratio(sparse, dense))
        medians.append(statistics.median(s / d for s, d in zip(sparse, dense, strict=True)))
    until = faster_up_to(densities, medians)
    last = "never" if until is None else f"{until:g}"
    return f"| {case} | {batch} | {' | '.join(cells)} | {last} |"


def faster_up_to(densities: list[float], ratios: list[float]) -> float | None:
    """The largest density up to which all ratios are below 1; `None` if the first one is not."""
    until = None
    for density, value in sorted(zip(densities, ratios, strict=True)):
        if value >= 1:
            break
        until = density
    return until


def _of_a_network(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table of a whole network."""
    densities = options.densities or NETWORK_DENSITIES
    size = f"{options.image_size} x {options.image_size}"
    yield from _heading(
        options, f"Time of {options.network} at {size} after nn.store_sparse, over the dense one"
    )
    yield "| density | batch | stored as CSR | with them | dense, in channels_last |"
    yield "| --- | --- | --- | --- | --- |"
    for density in densities:
        network = sparse_network(options.network, density).to(options.device)
        total = sum(isinstance(layer, nn.Conv2d) for layer in network.modules())
        for batch in options.images:
            images = torch.randn(batch, 3, options.image_size, options.image_size)
            images = images.to(options.device)
            packed = store_sparse(network, images, _clock(images))
            stored = sum(isinstance(layer, SparseConv2d) for layer in packed.modules())
            others = packed, ChannelsLast(network)
            cells = [ratio(*measure(other, network, images, options.rounds)) for other in others]
            count = f"{stored} of {total} convolutions"
            yield f"| {density:g} | {batch} | {count} | {' | '.join(cells)} |"
    yield ""
    yield caption(options.rounds)
    yield "The density is that of each convolution."


@torch.no_grad()
def measure(
    sparse: nn.Module, dense: nn.Module, inputs: Tensor, rounds: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each round, of the sparse and of the dense module, measured in turn."""
    wanted = dense(inputs)
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(sparse(inputs) / scale, wanted / scale, atol=1e-3, rtol=1e-3)
    device, clock = str(inputs.device), _clock(inputs)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 3):
        synchronize(device)
        start = clock()
        sparse(inputs).contiguous()  # as the dense module gives it
        synchronize(device)
        middle = clock()
        dense(inputs)
        synchronize(device)
        end = clock()
        if number >= 3:
            times[0].append((middle - start) * 1e3)
            times[1].append((end - middle) * 1e3)
    return times


def _clock(inputs: Tensor) -> Callable[[], float]:
    """On one core the processor's time is the layer's, also beside other processes."""
    alone = inputs.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


if __name__ == "__main__":
    main()
