"""Is there a rule that beats a random wiring with all sources read, on real images?

    python -m benchmarks.image_wirings --root DIR

A network of eight branches in six modules (`benchmarks/image_networks.py`) learns CIFAR-10 at 8 x 8
pixels: some thousand steps while a rule learns the edges, then frozen, with a learning rate that
falls to 0. Every rule has the same first weights, batches and schedule, seed by seed. The controls:
a random wiring; one in which every source is read, which is what to beat; wirings that are drawn
uniformly and frozen to a random one; what a rule has found, trained from scratch. Coverage is the
share of sources that a target reads. Agreement is the correlation of the scores of two runs that
differ in the draws alone. Writes NAME.md, NAME.csv and NAME.png, and goes on from NAME.csv if it is
started again: a finished run is not repeated.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD

from benchmarks.experiments import Row, agreement, mean_text, read_rows, write_results
from benchmarks.image_networks import (
    BRANCHES,
    CONTROLS,
    COVERED,
    LEARNED,
    MODULES,
    Branched,
    Gates,
    Given,
    Make,
)
from benchmarks.machine import describe, keep_freed_memory
from wiring_lightning.data import CIFAR10
from wiring_lightning.nn import find_gates

_RULES = {**CONTROLS, **LEARNED}

# What the columns of the CSV file hold, but for text.
_KINDS = {"accuracy": float, "coverage": float, "agreement": float, "seed": int}


def main() -> None:
    keep_freed_memory()
    options = _options()
    torch.set_num_threads(1)
    images = load(options.root, options.images)
    rows = read_rows(options.name, _settings(options), _KINDS)
    for kind, name, seed in _plan(options):
        if any((row["kind"], row["rule"], int(row["seed"])) == (kind, name, seed) for row in rows):
            continue
        start = time.perf_counter()
        rows.append({"settings": _settings(options), "kind": kind, "rule": name, "seed": seed,
                     **_run(options, images, kind, name, seed, rows)})  # fmt: skip
        print(kind, name, seed, rows[-1]["accuracy"], f"{time.perf_counter() - start:.0f} s",
              flush=True)  # fmt: skip
        write_results(options.name, list(_table(options, rows)), rows, _figure(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--images", type=int, default=0, help="training images; 0 for all")
    parser.add_argument("--fan-in", type=int, default=1)
    parser.add_argument("--steps", type=int, nargs=2, default=[5000, 1500],
                        help="of learning the wiring, and after the freeze")  # fmt: skip
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--agreements", type=int, default=1, help="seeds that learn twice")
    parser.add_argument("--only", nargs="*", default=list(_RULES), help="names of rules")
    parser.add_argument("--name", default="results/image_wirings")
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> str:
    learn, frozen = options.steps
    return (
        f"CIFAR-10 at 8 x 8 pixels, {options.images or 50000} images; {MODULES} modules of "
        f"{BRANCHES} branches, K = {options.fan_in}; {learn} steps of learning and {frozen} after "
        f"the freeze, batch {options.batch}, SGD with momentum 0.9, rate {options.lr}, gate rate "
        "0.2 if not said"
    )


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """All runs: what decides first, and every run after those that it starts from."""
    learned = [name for name in LEARNED if name in options.only]
    drawing = [name for name in learned if isinstance(LEARNED[name](1, 0, 1), Gates)]
    yield from (("joint", name, seed) for seed in range(options.seeds) for name in options.only)
    for seed in range(options.seeds):
        yield from (("from scratch", name, seed) for name in learned)
    for seed in range(options.agreements):
        yield from (("other draws", name, seed) for name in drawing)


def load(root: str, count: int, pixels: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images `[n, 3, pixels, pixels]`, averaged and normalised, and labels."""
    data = CIFAR10(root=root)
    parts = []
    for train in (True, False):
        images, labels = data.read(train)
        size = images.shape[-1] // pixels
        parts += [functional.avg_pool2d(images.float() / 255, size), labels]
    train, labels, test, wanted = parts
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    count = count or len(train)
    train, test = ((part - mean) / deviation for part in (train[:count], test))
    return train, labels[:count], test, wanted


def _run(
    options: argparse.Namespace,
    images: tuple[Tensor, Tensor, Tensor, Tensor],
    kind: str,
    name: str,
    seed: int,
    rows: list[Row],
) -> Row:
    """What one run ends with; `rows` are the runs before, of which some are its start."""
    if kind == "joint":
        return _row(*train(images, _RULES[name], options, seed))
    joint = next(row for row in rows if (row["kind"], row["rule"]) == ("joint", name)
                 and int(row["seed"]) == seed)  # fmt: skip
    if kind == "from scratch":
        given: Any = partial(Given, wiring=_unpack(joint["found"]))
        return _row(*train(images, given, options, seed))
    # Agreement: the learning phase twice, from the same weights and batches.
    first, second = (
        train(images, _RULES[name], options, seed, draws=seed + other, frozen=0)[0]
        for other in (0, 1000)
    )
    return {**_row(first, math.nan), "agreement": round(agreement(first, second), 3)}


def _row(network: Branched, accuracy: float) -> Row:
    found = network.found()
    return {
        "accuracy": round(100 * accuracy, 2),
        "coverage": round(float(found.any(1).float().mean()), 3),
        "agreement": math.nan,
        "found": _pack(found),
    }


def _pack(found: Tensor) -> str:
    """Edges as text: the sources of a target, targets by spaces, modules by bars."""
    return "|".join(
        " ".join("+".join(map(str, row.nonzero().flatten().tolist())) for row in module)
        for module in found
    )


def _unpack(text: str) -> Tensor:
    """The edges that `_pack` wrote."""
    modules = [[list(map(int, row.split("+"))) for row in module.split()]
               for module in text.split("|")]  # fmt: skip
    found = torch.zeros(len(modules), BRANCHES, BRANCHES, dtype=torch.bool)
    for module, rows in zip(found, modules, strict=True):
        for edges, sources in zip(module, rows, strict=True):
            edges[sources] = True
    return found


def train(
    images: tuple[Tensor, Tensor, Tensor, Tensor],
    make: Make,
    options: argparse.Namespace,
    seed: int,
    draws: int | None = None,
    frozen: int | None = None,
) -> tuple[Branched, float]:
    """One run: the network and its accuracy on the test images.

    Args:
        images: what `load` gives.
        make: the rule.
        options: of the command line.
        seed: of the first weights and the batches.
        draws: seed of the rule's draws, as `seed` if not given.
        frozen: steps after the freeze, if not those of the options; with 0 nothing is frozen.
    """
    learn, rest = options.steps
    rest = rest if frozen is None else frozen
    rule = make(options.fan_in, seed if draws is None else draws, learn)
    torch.manual_seed(seed)
    network = Branched(rule.edges, options.fan_in)
    scores = {id(gate.scores) for gate in find_gates(network).values()}
    weights = [weight for weight in network.parameters() if id(weight) not in scores]
    optimizer = SGD(weights, lr=options.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rule.start(network, optimizer)
    batches = torch.Generator().manual_seed(seed)
    network.train()
    for step in range(1, learn + rest + 1):
        inputs, labels = _batch(images[0], images[1], options.batch, batches)
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
        if step <= learn:
            rule.step(step)
        if step == learn and rest:
            rule.freeze()
        if step > learn:
            for group in optimizer.param_groups:
                group["lr"] = options.lr * (learn + rest - step) / rest
    network.eval()
    with torch.no_grad():
        parts = zip(images[2].split(1000), images[3].split(1000), strict=True)
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in parts)
    return network, right / len(images[3])


def _batch(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random batch, shifted by up to one pixel and half of the times mirrored."""
    chosen = torch.randint(len(images), (size,), generator=generator)
    down, right, mirrored = torch.randint(3, (3,), generator=generator).tolist()
    batch = functional.pad(images[chosen], (1, 1, 1, 1))[..., down : down + 8, right : right + 8]
    return batch.flip(-1) if mirrored % 2 else batch, labels[chosen]


def _values(rows: list[Row], kind: str, name: str, key: str) -> dict[int, float]:
    """A number of all seeds."""
    return {
        row["seed"]: row[key] for row in rows
        if (row["kind"], row["rule"]) == (kind, name) and not math.isnan(row[key])
    }  # fmt: skip


def _table(options: argparse.Namespace, rows: list[Row]) -> Iterator[str]:
    yield f"{_settings(options)}. {describe('cpu', 1)}"
    yield ""
    yield (
        "Test accuracy in %, mean ± standard deviation; differences of the same seeds, mean ± "
        "standard error; coverage is the share of sources that are read; agreement is the "
        "correlation of the scores of two runs that differ in the draws."
    )
    yield ""
    yield (
        f'| rule | n | accuracy | minus "{COVERED}" | what was found, from scratch | '
        "minus the same | coverage | agreement |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    reference = _values(rows, "joint", COVERED, "accuracy")
    for name in _RULES:
        joint = _values(rows, "joint", name, "accuracy")
        if not joint:
            continue
        scratch = _values(rows, "from scratch", name, "accuracy")
        cells = [name, str(len(joint)), mean_text(list(joint.values()))]
        for values in (joint, scratch):
            paired = [values[seed] - reference[seed] for seed in values if seed in reference]
            if values is scratch:
                cells.append(mean_text(list(values.values())))
            cells.append("-" if name == COVERED else mean_text(paired, error=True))
        coverage = statistics.mean(_values(rows, "joint", name, "coverage").values())
        agreements = list(_values(rows, "other draws", name, "agreement").values())
        cells += [f"{coverage:.2f}", f"{statistics.mean(agreements):+.2f}" if agreements else "-"]
        yield f"| {' | '.join(cells)} |"


def _figure(rows: list[Row]) -> Figure:
    """Every run as a dot: its difference to the reference of the same seed."""
    reference = _values(rows, "joint", COVERED, "accuracy")
    names = [name for name in _RULES if _values(rows, "joint", name, "accuracy")]
    figure = Figure(figsize=(8, 0.4 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots()
    colors = {"joint": "#D55E00", "from scratch": "#0072B2"}
    for place, name in enumerate(names):
        for kind, shift in (("joint", 0.12), ("from scratch", -0.12)):
            values = _values(rows, kind, name, "accuracy")
            paired = [values[seed] - reference[seed] for seed in values if seed in reference]
            axes.plot(paired, [place + shift] * len(paired), "o", color=colors[kind], alpha=0.6)
            if paired:
                axes.plot(statistics.mean(paired), place + shift, "|", color=colors[kind],
                          markersize=16)  # fmt: skip
    for kind, color in colors.items():
        axes.plot([], [], "o", color=color, label=kind)
    axes.axvline(0, color="0.6", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy minus that of a covered random wiring, points")
    axes.legend(loc="lower left")
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
