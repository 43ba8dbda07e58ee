"""Batch norms of a search that see the drawn examples, or the whole batch.

    python -m benchmarks.compare_statistics --seeds 5

First, one batch of 64 random images goes through fabrics with either statistics, with the same
weights and the same drawn architectures: how far the logits of the connected examples are apart.
Then every seed searches the ConvFabric of configs/bsn/digits.yaml twice on handwritten digits, on
that file's schedule. Writes NAME.md.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.searches import train
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.backbones.fabric_network import FabricNetwork
from wiring_lightning.callbacks import BudgetedSearch, Phase
from wiring_lightning.data import Digits
from wiring_lightning.nn.fabric import Statistics

_KINDS: tuple[Statistics, ...] = ("drawn", "batch")
_FABRICS: dict[str, Callable[..., FabricNetwork]] = {
    "ResNetFabric, width 3": partial(ResNetFabric, 3),
    "ConvFabric, 4 columns, 6 scales, 16 channels": partial(ConvFabric, 4, 16, 6),
}
_INITIAL = (3.0, 0.5)  # the paper's, and a search on its way
Found = tuple[float, int]  # test accuracy and multiply-adds


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    found: dict[str, list[Found]] = {kind: [] for kind in _KINDS}
    for seed in range(options.seeds):
        data = Digits(batch_size=32, augment=False, seed=seed)
        for kind in _KINDS:
            torch.manual_seed(seed)
            network = ConvFabric(4, 8, 3, in_channels=1, image_size=8, statistics=kind)
            search = BudgetedSearch(
                budget=options.budget, relative_penalty=0.3, lr=5.0, warmup_epochs=5, seed=seed
            )
            phases = [Phase(30, lr=0.05), Phase(10, lr=0.005, freeze=True)]
            accuracy, _ = train(network, data, phases, search, lr=0.05, weight_decay=1e-4)
            price = int(costs.multiply_adds(network.wiring()))
            found[kind].append((100 * accuracy, price))
            print(f"seed {seed}, {kind}: {found[kind][-1]}", flush=True)
    lines = [*differences(), "", *searches(found, options.budget)]
    Path(f"{options.name}.md").write_text("\n".join(lines) + "\n")


def differences() -> list[str]:
    """A table: how far apart the logits are for the same weights and architectures."""
    lines = [
        "One batch of 64 random images, the same weights and drawn architectures; root of the mean "
        "square over the connected examples.", "",
        "| fabric | probability of an edge | logits | difference of the logits |",
        "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, make in _FABRICS.items():
        for initial in _INITIAL:
            logits = [_logits(make, kind, initial) for kind in _KINDS]
            size, difference = map(_root_mean_square, (logits[0], logits[0] - logits[1]))
            share = torch.tensor(initial).sigmoid().item()
            lines.append(f"| {name} | {share:.2f} | {size:.2f} | {difference:.2f} |")
    return lines


def searches(found: dict[str, list[Found]], budget: float) -> list[str]:
    """A table of the searches, and their paired difference."""
    count = len(found["drawn"])
    lines = [
        f"Searches on handwritten digits, ConvFabric of 4 columns, 3 scales and 8 channels, budget "
        f"{budget:,.0f} multiply-adds; mean ± std of {count} seeds.", "",
        "| statistics | test accuracy | multiply-adds found |", "| --- | --- | --- |",
    ]  # fmt: skip
    for kind, runs in found.items():
        cells = [
            f"{statistics.mean(column):,.{digits}f} ± {statistics.stdev(column):,.{digits}f}"
            for column, digits in zip(zip(*runs, strict=True), (2, 0), strict=True)
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    gains = [b[0] - a[0] for a, b in zip(found["drawn"], found["batch"], strict=True)]
    error = statistics.stdev(gains) / count**0.5
    paired = f"{statistics.mean(gains):+.2f} points, standard error {error:.2f}"
    return [*lines, "", f"batch minus drawn, paired: {paired}."]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--budget", type=float, default=170e3)
    parser.add_argument("--name", default="results/compare_statistics")
    return parser.parse_args()


def _logits(make: Callable[..., FabricNetwork], kind: Statistics, initial: float) -> Tensor:
    torch.manual_seed(0)
    network = make(initial=initial, statistics=kind)
    gate = network.gate
    assert gate is not None
    gate.seed(0)
    with torch.no_grad():
        logits: Tensor = network(torch.randn(64, 3, 32, 32))
    assert gate.drawn is not None
    return logits[network.fabric.topology.live(gate.drawn).any(1)]


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


if __name__ == "__main__":
    main()
