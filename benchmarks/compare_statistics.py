"""Batch norms of a search that see the drawn examples, or the whole batch, on handwritten digits.

    python -m benchmarks.compare_statistics --seeds 5

Every seed searches the ConvFabric of configs/bsn/digits.yaml twice, on that file's schedule, from
the same weights and with the same draws at the start. Before the search, one batch goes through
both networks: `logits differ by` is the root of the mean squared difference, for the same weights
and the same architectures, and beside it the size of the logits themselves. Writes NAME.md.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.searches import train
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric
from wiring_lightning.callbacks import BudgetedSearch, Phase
from wiring_lightning.data import Digits
from wiring_lightning.nn.fabric import Statistics

_KINDS: tuple[Statistics, ...] = ("drawn", "batch")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows: dict[str, list[tuple[float, int, float]]] = {kind: [] for kind in _KINDS}
    differences, sizes = [], []
    for seed in range(options.seeds):
        data = Digits(batch_size=32, augment=False, seed=seed)
        first = {kind: _first_logits(kind, seed, data) for kind in _KINDS}
        differences.append(_root_mean_square(first["drawn"] - first["batch"]))
        sizes.append(_root_mean_square(first["drawn"]))
        for kind in _KINDS:
            network, start = _build(kind, seed), time.perf_counter()
            search = BudgetedSearch(
                budget=options.budget, relative_penalty=0.3, lr=5.0, warmup_epochs=5, seed=seed
            )
            phases = [Phase(30, lr=0.05), Phase(10, lr=0.005, freeze=True)]
            accuracy, _ = train(network, data, phases, search, lr=0.05, weight_decay=1e-4)
            price = int(costs.multiply_adds(network.wiring()))
            rows[kind].append((100 * accuracy, price, time.perf_counter() - start))
            print(f"seed {seed}, {kind}: {rows[kind][-1]}", flush=True)
    lines = [
        f"handwritten digits, ConvFabric of 4 columns, 3 scales and 8 channels, budget "
        f"{options.budget:,.0f} multiply-adds, {options.seeds} seeds; mean ± std", "",
        "| statistics | test accuracy | multiply-adds found | seconds |",
        "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for kind, runs in rows.items():
        cells = [
            f"{statistics.mean(column):,.{digits}f} ± {statistics.stdev(column):,.{digits}f}"
            for column, digits in zip(zip(*runs, strict=True), (2, 0, 0), strict=True)
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    gains = [b[0] - a[0] for a, b in zip(rows["drawn"], rows["batch"], strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    lines += ["", f"batch minus drawn, paired: {statistics.mean(gains):+.2f} points, standard "
              f"error {error:.2f}. Logits differ by {min(differences):.2f} to "
              f"{max(differences):.2f} before the search, and are {min(sizes):.2f} to "
              f"{max(sizes):.2f} in size (root of the mean square)."]  # fmt: skip
    Path(f"{options.name}.md").write_text("\n".join(lines) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=170e3)
    parser.add_argument("--name", default="results/compare_statistics")
    return parser.parse_args()


def _build(kind: Statistics, seed: int) -> ConvFabric:
    torch.manual_seed(seed)
    return ConvFabric(4, 8, 3, in_channels=1, image_size=8, statistics=kind)


def _first_logits(kind: Statistics, seed: int, data: Digits) -> Tensor:
    data.prepare_data()
    data.setup("fit")
    images, _ = next(iter(data.train_dataloader()))
    network = _build(kind, seed)
    assert network.gate is not None
    network.gate.seed(seed)
    logits: Tensor = network(images).detach()
    return logits


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


if __name__ == "__main__":
    main()
