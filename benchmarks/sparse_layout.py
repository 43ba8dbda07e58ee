"""At which density a sparse layout of a linear layer's weight is faster than the dense product.

    python -m benchmarks.sparse_layout
    python -m benchmarks.sparse_layout --sizes 512 2048 --batches 1 64 --markdown FILE

Weights are zero in places chosen at random, as single weights are chosen by `DNW`, and are stored
as CSR. The sparse layer takes and gives `[batch, features]` as a dense one does, so it transposes
both. Every product is checked against the dense one. A ratio below 1 says that CSR is faster.
"""

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import describe, keep_freed_memory, synchronize
from benchmarks.steps import caption, ratio


def main() -> None:
    keep_freed_memory()
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument(
        "--densities", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.2, 0.3, 0.5]
    )
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", help="file to write the table into")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    columns = [f"density {density:g}" for density in options.densities]
    lines = [
        "# Time of a linear layer with its weight as CSR, over the dense layer", "",
        f"{describe(options.device, options.threads)}, "
        f"`python -m benchmarks.sparse_layout {' '.join(sys.argv[1:])}`", "",
        f"| layer | batch | {' | '.join(columns)} | faster up to |",
        "| --- " * (3 + len(columns)) + "|",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for size in options.sizes:
        for batch in options.batches:
            lines.append(_row(options, size, batch))
            print(lines[-1], flush=True)
    until = "The last column is the largest of these densities up to which all medians are below 1."
    lines += ["", caption(options.rounds), until]
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(options: argparse.Namespace, size: int, batch: int) -> str:
    cells, medians = [], []
    for density in options.densities:
        sparse, dense = measure(size, batch, density, options.rounds, options.device)
        cells.append(ratio(sparse, dense))
        medians.append(statistics.median(s / d for s, d in zip(sparse, dense, strict=True)))
    until = faster_up_to(options.densities, medians)
    last = "never" if until is None else f"{until:g}"
    return f"| {size} x {size} | {batch} | {' | '.join(cells)} | {last} |"


def faster_up_to(densities: list[float], ratios: list[float]) -> float | None:
    """The largest density up to which all ratios are below 1; `None` if the first one is not."""
    until = None
    for density, value in sorted(zip(densities, ratios, strict=True)):
        if value >= 1:
            break
        until = density
    return until


def random_weight(size: int, density: float) -> Tensor:
    """`[size, size]` with a share of `density` of its entries not zero."""
    kept = torch.zeros(size * size)
    kept[torch.randperm(len(kept))[: round(density * len(kept))]] = 1
    return torch.randn(size, size) * kept.view(size, size)


@torch.no_grad()
def measure(
    size: int, batch: int, density: float, rounds: int, device: str
) -> tuple[list[float], list[float]]:
    """Milliseconds of each round, of the sparse and of the dense layer, measured in turn."""
    weight = random_weight(size, density).to(device)
    inputs = torch.randn(batch, size, device=device)
    packed = weight.to_sparse_csr()
    wanted = functional.linear(inputs, weight)
    torch.testing.assert_close((packed @ inputs.T).T, wanted, atol=1e-3, rtol=1e-3)
    # On one core the processor's time is the layer's, also beside other processes.
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    sparse, dense = [], []
    for number in range(rounds + 3):
        synchronize(device)
        start = clock()
        (packed @ inputs.T).T.contiguous()
        synchronize(device)
        middle = clock()
        functional.linear(inputs, weight)
        synchronize(device)
        end = clock()
        if number >= 3:
            sparse.append((middle - start) * 1e3)
            dense.append((end - middle) * 1e3)
    return sparse, dense


if __name__ == "__main__":
    main()
