"""Time to find the k largest magnitudes among many weights, against `torch.topk`, from one run.

    python -m benchmarks.largest_magnitudes
    python -m benchmarks.largest_magnitudes --densities 0.01 0.1 0.5 0.9 --device cuda

8.65 million weights are those of the largest graph of MobileNetV1-DNW (3,072 x 2,816). Between two
calls every weight takes a small random step, as in training; every answer is checked.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import describe, keep_freed_memory, synchronize
from benchmarks.steps import caption, ratio
from wiring_lightning.functional import LargestMagnitudes


def main() -> None:
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=3072 * 2816)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.01, 0.1, 0.5, 0.9])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", help="file to write the table into")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# Time to find the largest magnitudes", "",
        f"{describe(options.device, options.threads)}, {options.weights:,} weights, "
        f"`python -m benchmarks.largest_magnitudes {' '.join(sys.argv[1:])}`", "",
        "| density | warm-started | torch.topk | ratio |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for density in options.densities:
        lines.append(_row(options, density))
        print(lines[-1], flush=True)
    lines += ["", caption(options.rounds)]
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(options: argparse.Namespace, density: float) -> str:
    k = round(density * options.weights)
    bound = 1 / 2816**0.5
    weights = torch.empty(options.weights, device=options.device).uniform_(-bound, bound)
    largest, kept = LargestMagnitudes(k), torch.empty_like(weights)
    for _ in range(10):  # until the band is as narrow as it is in training
        weights += 1e-5 * torch.randn_like(weights)
        largest.keep([weights], [kept])
    ours, theirs = [], []
    for number in range(options.rounds + 2):
        weights += 1e-5 * torch.randn_like(weights)
        synchronize(options.device)
        start = time.perf_counter()
        largest.keep([weights], [kept])
        synchronize(options.device)
        middle = time.perf_counter()
        values = weights.abs().topk(k, sorted=False).values
        synchronize(options.device)
        end = time.perf_counter()
        assert int(kept.count_nonzero()) == k
        assert kept[kept != 0].abs().min() == values.min()
        if number >= 2:
            ours.append((middle - start) * 1e3)
            theirs.append((end - middle) * 1e3)
    times = f"{statistics.median(ours):.1f} ms | {statistics.median(theirs):.1f} ms"
    return f"| {density:g} | {times} | {ratio(ours, theirs)} |"


if __name__ == "__main__":
    main()
