"""Does it matter which earlier layers a layer reads? A small language model with 12 blocks.

    python -m benchmarks.earlier_layers

The network and the text are those of `docs/examples/language_model.py`. Every case has the same
first weights, batches and schedule, seed by seed. Blocks read K earlier outputs instead of the
residual sum, or beside it. A learned wiring is frozen after 60 % of the steps. "Found" trains the
learned wiring from the first weights again, so that it never changes. "Latest" reads the K layers
right before. Writes NAME.md (the table), NAME.csv (all runs) and NAME.png after every run. What is
in NAME.csv already is not run again.

`--matched` trains a control for the depth of what was found, and nothing else: for every found
wiring in NAME.csv a random one with the same distances between blocks and what they read, and with
the same longest path.
"""

import argparse
import csv
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks.earlier_layers_report import read_edges, write
from benchmarks.experiments import Row
from benchmarks.machine import keep_freed_memory
from docs.examples.language_model import LanguageModel, NextByte, read_text
from wiring_lightning.nn import Gate
from wiring_lightning.optim import GateSGD


class Case(NamedTuple):
    """One network, and where its wiring comes from."""

    # all, weighted, random, latest, found, matched, learned, or learned by the paper's rule
    wiring: str
    fan_in: int
    beside: bool = False
    layers: int = 12


_GROUPS = [  # the first are run first, with all seeds
    [
        *(Case(wiring, 12) for wiring in ("all", "weighted")),
        *(Case(wiring, k) for k in (1, 2) for wiring in ("random", "learned")),
    ],
    [
        *(Case("latest", k) for k in (1, 2)),
        *(Case(wiring, 1, beside=True) for wiring in ("random", "learned")),
    ],
    [Case("all", 24, layers=24), *(Case(w, 2, layers=24) for w in ("random", "learned"))],
    [Case("learned by the paper's rule", 2), Case("random", 4), Case("learned", 4)],
]


def main() -> None:
    keep_freed_memory()
    options = _options()
    rows = _read(Path(options.name).with_suffix(".csv"))
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        find = _todo_matched if options.matched else _todo
        waiting = [pool.submit(_run, options, *todo) for todo in find(options.seeds, rows)]
        for done in as_completed(waiting):
            rows += done.result()
            print({key: value for key, value in rows[-1].items() if key != "edges"}, flush=True)
            write(options, rows)
    write(options, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--lr", type=float, default=8e-3, help="the highest of the weights")
    parser.add_argument("--gate-lr", type=float, nargs=2, default=[2.0, 50.0],
                        help="of edges instead of the sum, and beside it")  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    what = "train only random wirings with the distances and the depth of the found ones"
    parser.add_argument("--matched", action="store_true", help=what)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--name", default="results/earlier_layers")
    return parser.parse_args()


def _todo(seeds: list[int], rows: list[Row]) -> Iterator[tuple[Case, int, Tensor | None]]:
    """What is not in some rows, and what was learned and not trained again from scratch."""
    done = {(*_case(row), row["seed"]) for row in rows}
    for group in _GROUPS:
        for seed in seeds:
            yield from ((case, seed, None) for case in group if (*case, seed) not in done)
    for row in rows:
        case, seed = _case(row), row["seed"]
        again = case._replace(wiring="found")
        if _trained_again(case) and seed in seeds and (*again, seed) not in done:
            yield again, seed, read_edges(row["edges"], case.layers)


def _todo_matched(seeds: list[int], rows: list[Row]) -> Iterator[tuple[Case, int, Tensor]]:
    """What `--matched` trains: for every found wiring a random one that is like it."""
    done = {(*_case(row), row["seed"]) for row in rows}
    for row in rows:
        case, seed = _case(row)._replace(wiring="matched"), row["seed"]
        if row["wiring"] == "found" and seed in seeds and (*case, seed) not in done:
            yield case, seed, matched(read_edges(row["edges"], case.layers), seed)


def _case(row: Row) -> Case:
    return Case(row["wiring"], row["fan_in"], row["beside"], row["layers"])


def _trained_again(case: Case) -> bool:
    """Whether what a case learns is trained once more, from the first weights."""
    return case.wiring == "learned" and not case.beside


def _run(
    options: argparse.Namespace, case: Case, seed: int, edges: Tensor | None = None
) -> list[Row]:
    """The row of a case, and for a learned wiring that of the same wiring from scratch."""
    torch.set_num_threads(1)
    nats, network = train(case, seed, options, edges)
    rows = [_row(case, seed, nats, network)]
    if _trained_again(case):
        again = case._replace(wiring="found")
        rows.append(_row(again, seed, *train(again, seed, options, network.gate.best)))
    return rows


def train(
    case: Case, seed: int, options: argparse.Namespace, edges: Tensor | None = None
) -> tuple[float, LanguageModel]:
    """Validation nats per byte and the network after one training.

    Args:
        case: the network.
        seed: of the first weights, the batches and the draws.
        options: steps and rates, see `--help`.
        edges: `[blocks, layers]` the wiring of a `"found"` or `"matched"` case.
    """
    training, validation = read_text()
    torch.manual_seed(seed)
    kind: Any = case.wiring.split()[0]
    kind = "random" if kind in ("latest", "found", "matched") else kind
    network = LanguageModel(kind, case.fan_in, case.beside, case.layers, options.width)
    task = NextByte(network)
    if case.wiring == "latest":
        edges = latest(case.layers, case.fan_in)
    if edges is not None:
        network.gate.active.copy_(edges)
    learner = None
    if kind == "learned":
        rule: Any = "project" if case.wiring == "learned" else "normalize"
        learner = GateSGD([network.gate], options.gate_lr[case.beside], seed=seed, update=rule)
    optimizer = Adam(_weights(network), lr=options.lr, fused=True)
    schedule = OneCycleLR(optimizer, options.lr, options.steps, pct_start=0.1)
    batches = torch.Generator().manual_seed(seed)
    for step in range(options.steps):
        if learner is not None and step == options.steps * 6 // 10:
            learner.freeze()
            learner = None
        windows = training[torch.randint(len(training), (options.batch,), generator=batches)]
        optimizer.zero_grad()
        task.loss(windows).backward()
        optimizer.step()
        schedule.step()
        if learner is not None:
            learner.step()
            learner.zero_grad()
    network.eval()
    with torch.no_grad():
        nats = sum(float(task.loss(part)) * len(part) for part in validation.split(128))
    return nats / len(validation), network


def latest(layers: int, fan_in: int) -> Tensor:
    """`[blocks, layers]` edges from the `fan_in` layers right before each block.

    Example:
        >>> latest(3, 2).int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    before = torch.ones(layers, layers).tril()
    return (before - before.tril(-fan_in)).bool()


def matched(edges: Tensor, seed: int) -> Tensor:
    """A random wiring with the distances and the depth of a given one.

    Every block reads as many layers as before. Every distance, in layers between a block and what
    it reads, occurs as often as before, and the longest path is as long. Two random edges exchange
    their distances, many times, unless that leads before the first layer or gives a block an edge
    that it has. So all wirings that this can reach are equally likely.

    Args:
        edges: `[blocks, layers]` the given wiring; block i may read the layers 0 to i.
        seed: of the draw.

    Example:
        >>> given = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1]]).bool()
        >>> {str(matched(given, seed).int().tolist()) for seed in range(9)}
        {'[[1, 0, 0], [1, 0, 0], [0, 0, 1]]', '[[1, 0, 0], [0, 1, 0], [0, 1, 0]]'}
    """
    draws = random.Random(seed)
    pairs = [(block, block - layer) for block, layer in edges.nonzero().tolist()]
    while True:
        for _ in range(40 * len(pairs)):
            one, other = draws.randrange(len(pairs)), draws.randrange(len(pairs))
            (block, distance), (another, length) = pairs[one], pairs[other]
            new = (block, length), (another, distance)
            if length <= block and distance <= another and not set(new) & set(pairs):
                pairs[one], pairs[other] = new
        drawn = torch.zeros_like(edges)
        for block, distance in pairs:
            drawn[block, block - distance] = True
        if longest_path(drawn) == longest_path(edges):
            return drawn


def longest_path(edges: Tensor) -> int:
    """How many blocks data can pass one after another; a block's row in `edges` is what it reads.

    Example:
        >>> longest_path(latest(3, 1)), longest_path(torch.tensor([[1, 0], [1, 0]]).bool())
        (3, 1)
    """
    depths = [0]
    for row in edges:
        depths.append(1 + max(depths[source] for source in row.nonzero().flatten().tolist()))
    return max(depths)


def _weights(network: LanguageModel) -> list[Tensor]:
    scores = {id(gate.scores) for gate in network.modules() if isinstance(gate, Gate)}
    return [p for p in network.parameters() if p.requires_grad and id(p) not in scores]


def _row(case: Case, seed: int, nats: float, network: LanguageModel) -> Row:
    gate = network.gate
    edges = torch.ones(case.layers, case.layers).tril().bool() if gate is None else gate.best
    return {
        **case._asdict(), "seed": seed, "nats": nats, "sources_read": int(edges.any(0).sum()),
        "longest_path": case.layers if case.beside else longest_path(edges),
        "edges": " ".join(f"{i}-{j}" for i, j in edges.nonzero().tolist()),
    }  # fmt: skip


def _read(file: Path) -> list[Row]:
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            {key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(lines)
        ]


def _value(key: str, text: str) -> Any:
    if key in ("wiring", "edges"):
        return text
    return text == "True" if key == "beside" else float(text) if key == "nats" else int(text)


if __name__ == "__main__":
    main()
