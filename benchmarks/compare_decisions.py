"""Compare options that the papers leave open, on small CIFAR-10 images, as a table over seeds.

    python -m benchmarks.compare_decisions --root DIR                    # ResNet-20, K = 4
    python -m benchmarks.compare_decisions --root DIR --backbone resnext  # ResNeXt {11,4,8}, K = 4

DIR holds cifar-10-batches-py. Every case differs from the package's defaults in one thing: how a
target counts the identities of its sources, whether normalised scores are written back, which score
all candidates start with (which matters only if they are not written back), the interval that
scores are clipped to, and the learning rate of the scores. `random` and the plain network are
trained on the same schedule. Every case with scores learns a second time, from the same weights
and batches and with another seed of the draws. `agreement` is the correlation of the scores of both
runs within a target: 1 says that they learned the same, 0 that the scores are noise of the draws.
"""

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.experiments import Shrink, agreement, learn, make_data, train
from wiring_lightning.backbones import ResNet, ResNeXt
from wiring_lightning.nn import find_gates


@dataclass(frozen=True)
class Case:
    """One deviation from the defaults."""

    name: str
    network: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    initial_score: float | None = None
    gate_lr: float = 1.0


OTHER_DRAWS = 1000  # added to the seed of the draws in a second run

CASES = [
    Case("default: mean, written back, [0, 1]"),
    Case("identity sum", network={"identity": "sum"}),
    Case("not written back", gates={"normalize": False}),
    Case("not written back, start at 0.5", gates={"normalize": False}, initial_score=0.5),
    Case("not written back, start at 1", gates={"normalize": False}, initial_score=1.0),
    Case("clip to [0.02, 1]", gates={"low": 0.02}),
    Case("gate lr 0.3", gate_lr=0.3),
    Case("gate lr 3", gate_lr=3.0),
    Case("weighted edges", network={"weighted": True}),
    Case("random", network={"wiring": "random"}),
    Case("plain", network={"wiring": "plain"}),
]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    accuracies: dict[str, list[float]] = defaultdict(list)
    agreements: dict[str, list[float]] = defaultdict(list)
    for seed in range(options.seeds):
        for case in CASES:
            if options.only and not any(part in case.name for part in options.only):
                continue
            start = time.perf_counter()
            accuracy, same = _run(options, case, seed)
            accuracies[case.name].append(accuracy)
            if same is not None:
                agreements[case.name].append(same)
            took = time.perf_counter() - start
            print(f"{case.name}, seed {seed}: {accuracy:.4f}, {same}, {took:.0f} s", flush=True)
            _write(options, accuracies, agreements)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--backbone", choices=["resnet", "resnext"], default="resnet")
    parser.add_argument("--size", type=int, default=16, help="average images down to this size")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=300, help="steps of one epoch")
    parser.add_argument("--epochs", type=int, nargs=3, default=[6, 3, 1])
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="only cases whose name contains one of these")
    parser.add_argument("--name", default="results/decisions")
    return parser.parse_args()


def _run(options: argparse.Namespace, case: Case, seed: int) -> tuple[float, float | None]:
    settings: dict[str, Any] = {"steps": options.steps, "lr": options.lr, "gate_lr": case.gate_lr}
    data = make_data("cifar10", options.root, options.batch, seed)
    network = _network(options, case, seed)
    accuracy, _ = train(
        Shrink(network, options.size), data, epochs=options.epochs, seed=seed, **settings,
        **case.gates,
    )  # fmt: skip
    if not find_gates(network):
        return accuracy, None
    data = make_data("cifar10", options.root, options.batch, seed)
    other = _network(options, case, seed)
    learn(
        Shrink(other, options.size), data, epochs=options.epochs[0], seed=seed + OTHER_DRAWS,
        **settings, **case.gates,
    )  # fmt: skip
    return accuracy, agreement(network, other)


def _network(options: argparse.Namespace, case: Case, seed: int) -> nn.Module:
    """The network of a case, with its first weights and scores."""
    torch.manual_seed(seed)
    network = _build(options, dict(case.network))
    if case.initial_score is not None:
        for gate in find_gates(network).values():
            with torch.no_grad():
                gate.scores[gate.scores >= 0] = case.initial_score
    return network


def _build(options: argparse.Namespace, arguments: dict[str, Any]) -> nn.Module:
    plain = arguments.get("wiring") == "plain"
    if options.backbone == "resnet":
        if plain:
            arguments["wiring"] = "previous"
        return ResNet(20, fan_in=4, image_size=options.size, **arguments)
    if plain:
        arguments["wiring"] = "full"
    return ResNeXt(11, 4, 8, fan_in=4, image_size=options.size, **arguments)


def _write(
    options: argparse.Namespace,
    accuracies: dict[str, list[float]],
    agreements: dict[str, list[float]],
) -> None:
    total = sum(options.epochs) * options.steps
    name = "ResNet-20, K = 4" if options.backbone == "resnet" else "ResNeXt {11,4,8}, K = 4"
    lines = [
        f"{name}, CIFAR-10 at {options.size}x{options.size}, {total} steps of batch "
        f"{options.batch}, {options.epochs[0] * options.steps} of them learning the wiring, lr "
        f"{options.lr}, gate lr 1 unless stated.", "",
        "| case | test accuracy, mean ± std (n) | agreement of two draw seeds |",
        "| --- | --- | --- |",
    ]  # fmt: skip
    for case, values in accuracies.items():
        std = statistics.stdev(values) if len(values) > 1 else float("nan")
        same = f"{statistics.mean(agreements[case]):.2f}" if agreements[case] else "-"
        lines.append(
            f"| {case} | {100 * statistics.mean(values):.2f} ± {100 * std:.2f} ({len(values)}) "
            f"| {same} |"
        )
    path = Path(f"{options.name}_{options.backbone}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
