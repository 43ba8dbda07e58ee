"""Runs of `wiring fit` as rows of a table: their names, their scores and what they cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from wiring_lightning import callbacks
from wiring_lightning.checkpoints import load_weights
from wiring_lightning.cli.config_parts import CONFIG, callbacks_in, class_name, classes_in
from wiring_lightning.cli.example import costs_with, example_image
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.report import sparse_rows, summarize, summarize_weights
from wiring_lightning.cli.run_keys import differing, flat, in_words, setting, value_of
from wiring_lightning.cli.runs import DEPTH, Run, RunError, UnfinishedError, find_run
from wiring_lightning.cli.several_runs import tested_once
from wiring_lightning.cli.trust import UntrustedError
from wiring_lightning.costs.layers import sum_of
from wiring_lightning.nn import find_bernoulli_gates
from wiring_lightning.wiring import find_wired

METHOD = "method"
# Arguments of a backbone, beside its connections, that choose between methods.
_VARIANTS = ("pattern", "architecture", "dynamics")


@dataclass(frozen=True)
class Sizes:
    """What `wiring inspect` counts: all of a network, and what is live; `None` if it cannot say.

    Args:
        parameters: all, and those that are live.
        multiply_adds: likewise.
        zeros: whether those that are live include weights that are zero.
    """

    parameters: tuple[int, int]
    multiply_adds: tuple[int, int] | None
    zeros: bool = False


@dataclass(frozen=True)
class Scored:
    """A finished run and its score."""

    run: Run
    score: float

    @property
    def seed(self) -> Any:
        """What `seed_everything` was."""
        return self.run.config.get("seed_everything")

    @cached_property
    def sizes(self) -> Sizes | None:
        """What the trained network costs; `None` without a checkpoint, or if it is not trusted."""
        try:
            path = self.run.checkpoint()
            module = self.run.as_of(path).build()
            load_weights(module, path)
        except (UnfinishedError, UntrustedError):
            return None
        network = find_wired(module)
        if network is None:
            example = example_image(module, None, self.run.config.get("data"))
            layers = costs_with(module, example, asked=False)
            summary = summarize_weights(module, layers)
            whole, adds = summary["params"], summary.get("multiply_adds")
            live = "nonzero" if sum_of(layers).sparse else "total"
            return Sizes(
                (whole["total"], whole[live]),
                None if adds is None else (adds["total"], adds[live]),
            )
        counts = summarize(network.wiring(), bool(find_bernoulli_gates(module)))
        whole, adds = counts["params"], counts["multiply_adds"]
        zeros = bool(sparse_rows(module))
        return Sizes((whole["total"], whole["live"]), (adds["total"], adds["live"]), zeros)


@dataclass(frozen=True)
class Row:
    """The runs of one row.

    Args:
        names: what the runs have in common, one name for each key of the table.
        runs: at least one.
    """

    names: tuple[str, ...]
    runs: Sequence[Scored]

    @property
    def label(self) -> str:
        """The names as one text."""
        return ", ".join(self.names)

    @property
    def scores(self) -> list[float]:
        """The score of every run."""
        return [one.score for one in self.runs]

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation of the scores; `None` of a single run."""
        return stdev(self.scores) if len(self.runs) > 1 else None

    @property
    def pooled(self) -> str | None:
        """What the runs differ in beside their starts, in words; `None` if in nothing."""
        found = differing([setting(one.run.config) for one in self.runs])
        if found:
            return in_words(found)
        starts = [_starts(one.run.config) for one in self.runs]
        again = any(start in starts[:place] for place, start in enumerate(starts))
        return "nothing, not even in their seeds" if again else None

    @property
    def has_zeros(self) -> bool:
        """Whether the costs include weights that are zero."""
        return any(one.sizes is not None and one.sizes.zeros for one in self.runs)

    def mean_size(self, name: str) -> tuple[float, float] | None:
        """Mean `parameters` or `multiply_adds`, all and live; `None` if a run cannot say."""
        sizes = [getattr(one.sizes, name, None) for one in self.runs]
        if any(size is None for size in sizes):
            return None
        whole, live = zip(*sizes, strict=True)
        return fmean(whole), fmean(live)


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, and its standard error (`None` of a single pair)."""

    mean: float
    error: float | None
    pairs: int


def paired(row: Row, other: Row) -> Difference | None:
    """The mean difference of `row` to `other` over the seeds that both have; `None` without any.

    Several runs of one seed count as their mean.
    """
    here, there = _by_seed(row), _by_seed(other)
    gaps = [here[seed] - there[seed] for seed in here if seed in there]
    if not gaps:
        return None
    error = stdev(gaps) / sqrt(len(gaps)) if len(gaps) > 1 else None
    return Difference(fmean(gaps), error, len(gaps))


def read_scored(folders: Sequence[Path], tag: str, trust: bool) -> list[Scored]:
    """Read the finished runs in several folders; notes name the others, and what they lack.

    Args:
        folders: each a run, or a folder above one run.
        tag: the score, such as `test/acc`.
        trust: whether networks that are not of this package may be built.

    Raises:
        RunError: if a folder does not exist or holds several runs, if a run is given twice, has no
            such score, or if none is finished and has a finite one.
    """
    runs: list[Run] = []
    no_runs: list[UnfinishedError] = []
    without, unfinished = list[Path](), list[Path]()
    for folder in folders:
        try:
            run = find_run(folder, trust)
        except UnfinishedError as error:
            without.append(folder)
            no_runs.append(error)
            continue
        if any(run.folder.resolve() == other.folder.resolve() for other in runs):
            raise RunError(f"The run {run.folder} is given 2 times: give it once.")
        # `wiring fit` tests at its end: a run that was not tested has not got there.
        if run.was_tested:
            runs.append(run)
        else:
            unfinished.append(run.folder)
    if unfinished and not runs:
        raise RunError(
            f"None of the {len(folders)} runs is finished ({unfinished[0]} has no test/... in a "
            "TensorBoard event file or metrics.csv): give folders that `wiring fit` has written to "
            "its end."
        )
    if not runs:
        raise no_runs[0]
    scored = [Scored(run, _score(run, tag)) for run in tested_once(runs)]
    finite = [one for one in scored if isfinite(one.score)]
    if not finite:
        one = scored[0]
        raise RunError(f"No run has a finite {tag}: that of {one.run.folder} is {one.score}.")
    _note_left_out("folder", without, f"without a {CONFIG} at most {DEPTH} folders deep")
    _note_left_out("run", unfinished, "not finished or failed")
    infinite = [one.run.folder for one in scored if one not in finite]
    _note_left_out("run", infinite, f"of which {tag} is NaN or infinite")
    return finite


def _note_left_out(what: str, folders: Sequence[Path], why: str) -> None:
    """Name folders that are not in the table, if there are any."""
    if folders:
        count = f"{len(folders)} {what}" + "s" * (len(folders) > 1)
        note(f"left out {count}, {why}: {', '.join(map(str, folders))}")


def _score(run: Run, tag: str) -> float:
    score = run.last_number(tag)
    if score is None:
        measured = ", ".join(name for name in run.tags if "/" in name)
        raise RunError(f"The run {run.folder} has no {tag}: give --score one of {measured}.")
    return score


def method_name(run: Run) -> str:
    """Backbone, wiring and learner of a run in words."""
    model = run.config["model"]
    named = [part for part in classes_in(model) if part is not model] or [model]
    arguments = (model.get("init_args") or {}) if isinstance(model, Mapping) else {}
    backbone = arguments.get("backbone") or named[0]
    settings = (backbone.get("init_args") or {}) if isinstance(backbone, Mapping) else {}
    variants = [settings[key] for key in _VARIANTS if isinstance(settings.get(key), str)]
    try:
        label = run.label
    except UntrustedError:
        label = str(settings.get("wiring", ""))
    return ", ".join(filter(None, [class_name(backbone), *variants, label, *learners(run.config)]))


def learners(config: Mapping[str, Any]) -> list[str]:
    """The callbacks of a config that learn a wiring, by name."""
    names = map(class_name, callbacks_in(config))
    kinds = [(name, getattr(callbacks, name, None)) for name in names if name]
    return [
        name
        for name, kind in kinds
        if isinstance(kind, type) and issubclass(kind, callbacks.WiringCallback)
    ]


def make_rows(scored: Sequence[Scored], keys: Sequence[str]) -> list[Row]:
    """Put runs with the same names into one row, in the order of the first run of each.

    Args:
        scored: the runs.
        keys: `"method"`, or keys of the config.
    """
    rows: dict[tuple[str, ...], list[Scored]] = {}
    for one in scored:
        names = tuple(
            method_name(one.run) if key == METHOD else str(value_of(one.run.config, key))
            for key in keys
        )
        rows.setdefault(names, []).append(one)
    return [Row(names, runs) for names, runs in rows.items()]


def _starts(config: Mapping[str, Any]) -> dict[str, Any]:
    """All seeds of a config by their keys."""
    return {key: value for key, value in flat(config).items() if "seed" in key}


def _by_seed(row: Row) -> dict[Any, float]:
    """The mean score of the runs of each seed."""
    scores: dict[Any, list[float]] = {}
    for one in row.runs:
        scores.setdefault(one.seed, []).append(one.score)
    return {seed: fmean(values) for seed, values in scores.items()}
