"""The table of `wiring export`: the trained network, its compact form, and the file."""

import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils.flop_counter import FlopCounterMode

from wiring_lightning import costs
from wiring_lightning.costs.plain_kernels import plain_kernels
from wiring_lightning.export import DescribedNetwork, Exported, ExportError, describe
from wiring_lightning.wiring import Wired

_BATCHES = (1, 64)
_SECONDS, _MOST_RUNS = 1.0, 50  # of each latency


def export_table(network: nn.Module, checkpoint: Path, done: Exported, images: Tensor) -> str:
    """Sizes and latencies in columns, and how far the file is from the trained network.

    Multiply-adds are those of convolutions and matrix products for one image, as executed. A
    product with a sparse matrix that became a dense one counts as dense.

    Args:
        network: the trained network.
        checkpoint: the file of its weights.
        done: what was written.
        images: real images.
    """
    network = network.cpu().eval()
    parts = (network, done.plain, _as_operators(done.program))
    columns = [
        ["", "trained", "compact", done.path.suffix],
        ["parameters", *(f"{count:,}" for count in _parameters(network, done))],
        ["multiply-adds", *(f"{multiply_adds(part, images[:1]):,}" for part in parts)],
        ["bytes", *(f"{size:,}" for size in _bytes(checkpoint, done))],
    ]
    for batch in _BATCHES:
        some = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
        runs = (network, done.plain, done.network)
        times = [f"{1000 * latency(part, some):.2f} ms" for part in runs]
        columns.append([f"{batch} image{'s' if batch > 1 else ''}", *times])
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in columns
    ]
    return "\n".join(lines)


@torch.inference_mode()
def latency(network: nn.Module, images: Tensor) -> float:
    """The median time of a run in seconds, after two that do not count."""
    for _ in range(2):
        network(images)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < _MOST_RUNS):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return median(times)


@torch.no_grad()
def multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products for some images, as executed.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 4, 3, padding=1), torch.zeros(1, 3, 8, 8))
        6912
    """
    with plain_kernels(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops() // 2


def _as_operators(program: ExportedProgram) -> nn.Module:
    """What a file computes, as a network whose operators torch can count."""
    try:
        return DescribedNetwork(*describe(program))  # inside of its loops, too
    except ExportError:  # it has operators that only a `.pt2` can hold
        return program.module()


def _parameters(network: nn.Module, done: Exported) -> tuple[int, int, int]:
    """Numbers of parameters; scores and gates of the trained network are not counted."""
    if isinstance(network, Wired):
        trained = int(costs.parameters(network.wiring(), live=False))
    else:
        trained = sum(weight.numel() for weight in network.parameters())
    program = done.program
    learned = [
        program.state_dict[spec.target].numel()
        for spec in program.graph_signature.input_specs
        if spec.kind == InputKind.PARAMETER and spec.target is not None
    ]
    return trained, sum(weight.numel() for weight in done.plain.parameters()), sum(learned)


def _bytes(checkpoint: Path, done: Exported) -> tuple[int, int, int]:
    """Of the checkpoint, of the compact network's tensors, and of the file."""
    tensors = done.plain.state_dict().values()
    own = sum(value.numel() * value.element_size() for value in tensors)
    return checkpoint.stat().st_size, own, done.path.stat().st_size
