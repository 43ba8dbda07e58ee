"""Does a learner find a wiring that is there? Every learner of the package on planted wirings.

    python -m benchmarks.planted_wiring

A teacher has T targets, each of which reads K of C sources (`benchmarks/planted_networks.py`). A
student with the same places for edges learns them for some steps, fixes them, and trains on. Every
learner has the same teachers, first weights, examples and schedule, seed by seed. The score is the
share of the labels' variance that is left unexplained on new examples; 0 is best. "Edges
recovered" is the share of the planted edges that a student ends with. With a shared label targets
can trade places, so there the best pairing of targets counts. Writes NAME.md, NAME.csv and
NAME.png.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.experiments import Row, write_results
from benchmarks.machine import describe, keep_freed_memory
from benchmarks.planted_learners import CONTROLS, LEARNERS
from benchmarks.planted_networks import Student, Task, make_task

_LABELS = {False: "own labels", True: "one shared label"}
_TICKS = (0.05, 0.1, 0.2, 0.4, 0.8)
_COLORS = {"own labels": "#0072B2", "one shared label": "#D55E00"}
_NAMED = "random, all sources read"


def main() -> None:
    keep_freed_memory()
    options = _options()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    learners = options.only or list(LEARNERS)
    rows: list[Row] = []
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for row in pool.map(partial(_run, options), product(seeds, (0, 1), learners)):
            print(row, flush=True)
            rows.append(row)
            if len(rows) % (2 * len(learners)) == 0:  # a seed is done
                write_results(options.name, list(_table(options, rows)), rows, _figure(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--sources", type=int, default=8)
    parser.add_argument("--fan-in", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs=2, default=[750, 250],
                        help="of learning the wiring, and after the freeze")  # fmt: skip
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of learners")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--name", default="results/planted_wiring")
    return parser.parse_args()


def _run(options: argparse.Namespace, case: tuple[int, int, str]) -> Row:
    torch.set_num_threads(1)
    seed, shared, learner = case
    task = make_task(seed, bool(shared), options.targets, options.sources, options.fan_in)
    result = train(task, learner, seed, options.steps, options.batch, options.lr)
    return {"labels": _LABELS[bool(shared)], "learner": learner, "seed": seed, **result}


def train(
    task: Task, learner: str, seed: int, steps: Sequence[int], batch: int = 64, lr: float = 0.01
) -> Row:
    """Unexplained variance, edges recovered and sources read after one training.

    Args:
        task: the teacher.
        learner: a name in `LEARNERS`.
        seed: of the examples, the first weights and the draws.
        steps: of learning the wiring, and of training after it is fixed.
        batch: examples of a step.
        lr: where the rate of the weights (Adam) starts; it falls to 0 like a cosine.
    """
    torch.manual_seed(seed)
    student = Student(task, torch.nn.Identity())  # the same first weights for all learners
    method = LEARNERS[learner](task, seed)
    student.edges = method.edges
    weights = [p for name, p in student.named_parameters() if not name.endswith(_SCORES)]
    optimizer = Adam(weights, lr=lr, fused=True)
    schedule = CosineAnnealingLR(optimizer, sum(steps))
    method.start(optimizer, steps[0])
    drawn = task.sample(sum(steps) * batch, torch.Generator().manual_seed(seed))
    for step, (sources, labels) in enumerate(_batches(drawn, batch)):
        if step == steps[0]:
            method.freeze()
        losses = (student(sources) - labels).square().sum(1)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        schedule.step()
        if step < steps[0]:
            method.step(losses)
    found = method.found()
    return {
        "unexplained": _unexplained(student, task),
        "recovered": recovered(found, task.wiring, task.shared),
        "edges": int(found.sum()),
        "sources_read": int(found.any(0).sum()),
    }


def _batches(drawn: tuple[Tensor, Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(*(part.split(size) for part in drawn), strict=True)


_SCORES = (".scores", ".logits")


@torch.no_grad()
def _unexplained(student: Student, task: Task) -> float:
    sources, labels = task.sample(10_000, torch.Generator().manual_seed(2**31))
    return float((student.eval()(sources) - labels).square().mean() / labels.var())


def recovered(found: Tensor, planted: Tensor, trade: bool) -> float:
    """The share of the planted edges that were found.

    Args:
        found: `[targets, sources]` edges.
        planted: `[targets, sources]` edges.
        trade: whether targets may trade places, to the best effect.

    Example:
        >>> planted = torch.tensor([[True, False], [False, True]])
        >>> recovered(planted.flip(0), planted, False), recovered(planted.flip(0), planted, True)
        (0.0, 1.0)
    """
    common = found.float() @ planted.float().T
    if trade:
        hits = common[linear_sum_assignment(common.numpy(), maximize=True)].sum()
    else:
        hits = common.diagonal().sum()
    return float(hits / planted.sum())


def _table(options: argparse.Namespace, rows: Sequence[Row]) -> Iterator[str]:
    sizes = f"T = {options.targets}, C = {options.sources}, K = {options.fan_in}"
    yield (
        f"{sizes}, {options.steps[0]} steps of learning the wiring and {options.steps[1]} after "
        f"the freeze, batch {options.batch}, Adam at {options.lr} with a cosine, paired seeds, "
        f"gate lr 0.2 unless stated. {describe('cpu', 1)}, {options.processes} processes."
    )
    for labels, own in _by("labels", rows).items():
        results = _by("learner", own)
        yield from ("", f"**{labels}**", "")
        yield (
            f"| learner | unexplained variance, mean ± sd (n) | minus {_NAMED}, ± standard error | "
            "edges recovered | edges | sources read |"
        )
        yield "| --- | --- | --- | --- | --- | --- |"
        for learner, found in results.items():
            yield _line(learner, found, results.get(_NAMED))


def _line(learner: str, found: Sequence[Row], control: Sequence[Row] | None) -> str:
    left = [row["unexplained"] for row in found]
    spread = statistics.stdev(left) if len(left) > 1 else float("nan")
    means = [statistics.mean(row[key] for row in found) for key in _COLUMNS]
    return (
        f"| {learner} | {statistics.mean(left):.3f} ± {spread:.3f} ({len(left)}) | "
        f"{_difference(found, control)} | {means[0]:.2f} | {means[1]:.1f} | {means[2]:.1f} |"
    )


_COLUMNS = ("recovered", "edges", "sources_read")


def _difference(found: Sequence[Row], control: Sequence[Row] | None) -> str:
    """The mean difference over seeds, its standard error, and whether it is more than noise."""
    if control is None or found is control or len(found) < 2:
        return "-"
    pairs = zip(found, control, strict=True)
    differences = [one["unexplained"] - other["unexplained"] for one, other in pairs]
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    noise = ", noise" if abs(mean) < 2 * error else ""
    return f"{mean:+.3f} ± {error:.3f}{noise}"


def _by(key: str, rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return groups


def _figure(rows: Sequence[Row]) -> Figure:
    """One dot a run: unexplained variance by learner, a panel for each kind of labels."""
    groups = _by("labels", rows)
    figure = Figure(figsize=(11, 0.32 * len(_by("learner", rows)) + 1.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (labels, own) in zip(panels, groups.items(), strict=True):
        for place, (learner, found) in enumerate(_by("learner", own).items()):
            left = [row["unexplained"] for row in found]
            color = "#777777" if learner in CONTROLS else _COLORS[labels]
            axes.scatter(left, [place] * len(left), s=14, color=color, alpha=0.5, linewidths=0)
            axes.plot(statistics.mean(left), place, marker="|", markersize=14, color=color,
                      markeredgewidth=2.5)  # fmt: skip
        names = list(_by("learner", own))
        axes.set(xscale="log", xlabel="unexplained variance (bar: mean)", title=labels,
                 yticks=range(len(names)), yticklabels=names)  # fmt: skip
        axes.xaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_xlim()
        axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.grid(alpha=0.3)
    panels[0].invert_yaxis()
    return figure


if __name__ == "__main__":
    main()
