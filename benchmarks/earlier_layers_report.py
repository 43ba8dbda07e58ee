"""The table and the picture of `benchmarks/earlier_layers.py`."""

import argparse
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.experiments import Row, write_results
from benchmarks.machine import describe

Key = tuple[int, bool, int, str]  # layers, beside, K, wiring
_WIRINGS = ("all", "weighted", "latest", "random", "matched", "found", "learned")  # their order
_COLORS = {
    "learned": "#D55E00", "found": "#CC79A7", "matched": "#56B4E9", "random": "#0072B2",
    "latest": "#009E73",
}  # fmt: skip


def write(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Write NAME.md, NAME.csv and NAME.png."""
    rows = sorted(rows, key=lambda row: (_key(row), row["seed"]))
    groups = _by_case(rows)
    write_results(options.name, list(_table(options, groups)), rows, _figure(groups))


def _key(row: Row) -> Key:
    return row["layers"], row["beside"], row["fan_in"], row["wiring"]


def _by_case(rows: Sequence[Row]) -> Mapping[Key, list[Row]]:
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[_key(row)].append(row)
    return dict(sorted(groups.items(), key=lambda item: _rank(item[0])))


def _rank(key: Key) -> tuple[bool | int | str, ...]:
    layers, beside, fan_in, wiring = key
    reads_all = wiring in ("all", "weighted")
    return layers, not reads_all, beside, fan_in, _WIRINGS.index(wiring.split()[0]), wiring


def _table(options: argparse.Namespace, groups: Mapping[Key, list[Row]]) -> Iterator[str]:
    yield (
        "`python -m benchmarks.earlier_layers`: "
        f"blocks of width {options.width}, {options.steps} steps of {options.batch} windows, Adam "
        f"with one cycle up to {options.lr}, gate lr {options.gate_lr[0]:g} instead of the sum and "
        f"{options.gate_lr[1]:g} beside it, frozen after 60 % of the steps, paired seeds. Nats per "
        "byte of text that is not trained on; lower is better. Differences are means over seeds "
        "± their standard error; below two of those they are called noise. "
        f"{describe('cpu', 1)}, Python {platform.python_version()} (whose text it is), "
        f"{options.processes} processes."
    )
    yield ""
    yield (
        "| blocks | a block reads | wiring | nats, mean ± sd (n) | minus random of this K | "
        "minus random of the found depth | minus the plain network | layers read | longest path |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for key, found in groups.items():
        layers, beside, fan_in, wiring = key
        nats = [row["nats"] for row in found]
        spread = statistics.stdev(nats) if len(nats) > 1 else float("nan")
        random = groups.get((layers, beside, fan_in, "random"))
        read, path = (_mean(found, name) for name in ("sources_read", "longest_path"))
        yield (
            f"| {layers} | {_reads(key)} | {_name(wiring)} | {statistics.mean(nats):.3f} ± "
            f"{spread:.3f} ({len(nats)}) | {difference(found, random)} | "
            f"{difference(found, groups.get((layers, beside, fan_in, 'matched')))} | "
            f"{difference(found, groups.get((layers, False, layers, 'all')))} | {read} | {path} |"
        )


def _reads(key: Key) -> str:
    _, beside, fan_in, wiring = key
    if wiring in ("all", "weighted"):
        return "all earlier layers"
    return f"the sum, and {fan_in} more" if beside else f"{fan_in} instead of the sum"


def _name(wiring: str) -> str:
    names = {
        "all": "plain sum", "weighted": "sum with learned weights", "found": "found, again",
        "matched": "random of the found depth",
    }  # fmt: skip
    return names.get(wiring, wiring)


def _mean(rows: Sequence[Row], name: str) -> str:
    return f"{statistics.mean(row[name] for row in rows):.1f}"


def difference(found: Sequence[Row], control: Sequence[Row] | None) -> str:
    """The mean difference over the seeds that both have, and its standard error.

    Example:
        >>> one, other = ([{"seed": s, "nats": base + s} for s in (1, 2)] for base in (0.5, 1.0))
        >>> difference(one, other)
        '-0.500 ± 0.000'
    """
    if control is None or found is control:
        return "-"
    others = {row["seed"]: row["nats"] for row in control}
    pairs = [row["nats"] - others[row["seed"]] for row in found if row["seed"] in others]
    if len(pairs) < 2:
        return "-"
    mean, error = statistics.mean(pairs), statistics.stdev(pairs) / len(pairs) ** 0.5
    return f"{mean:+.3f} ± {error:.3f}{', noise' if abs(mean) <= 2 * error else ''}"


def _figure(groups: Mapping[Key, list[Row]]) -> Figure:
    """One dot a run; and what the blocks of learned networks read, as shares of the seeds."""
    learned = {key: rows for key, rows in groups.items() if key[3] == "learned" and key[0] == 12}
    panels = max(1, len(learned))
    figure = Figure(
        figsize=(6.5 + 2.0 * panels, max(3.2, 0.26 * len(groups) + 1)), layout="constrained"
    )
    axes, *maps = figure.subplots(
        1, 1 + panels, width_ratios=[2.2, *[1.0] * panels], squeeze=False
    )[0]  # fmt: skip
    for place, (key, rows) in enumerate(groups.items()):
        color = _COLORS.get(key[3].split()[0], "#777777")
        nats = [row["nats"] for row in rows]
        axes.scatter(nats, [place] * len(nats), s=16, color=color, alpha=0.6, linewidths=0)
        axes.plot(statistics.mean(nats), place, marker="|", markersize=13, color=color,
                  markeredgewidth=2.5)  # fmt: skip
    names = [f"{key[0]} blocks, {_reads(key)}: {_name(key[3])}" for key in groups]
    axes.set(yticks=range(len(groups)), yticklabels=names, xlabel="validation nats (bar: mean)")
    axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    for panel, (key, rows) in zip(maps, learned.items(), strict=False):
        _draw_shares(panel, rows, f"learned:\n{_reads(key)}")
    return figure


def _draw_shares(axes: Axes, rows: Sequence[Row], title: str) -> None:
    layers = rows[0]["layers"]
    shares = torch.stack([read_edges(row["edges"], layers) for row in rows]).double().mean(0)
    shares[torch.ones(layers, layers).triu(1).bool()] = torch.nan  # later layers
    axes.imshow(shares.numpy(), cmap="Oranges", vmin=0, vmax=1)
    axes.set_title(title, size=8)
    axes.set_xlabel("reads (0: the embedding)", size=8)
    axes.set_ylabel("block", size=8)
    axes.set(xticks=range(0, layers, 3), yticks=range(0, layers, 3))
    axes.set_yticklabels([str(block + 1) for block in range(0, layers, 3)])
    axes.tick_params(labelsize=7)


def read_edges(text: str, layers: int) -> Tensor:
    """`[blocks, layers]` edges from a cell of the CSV file.

    Example:
        >>> read_edges("0-0 1-0", 2).int().tolist()
        [[1, 0], [1, 0]]
    """
    edges = torch.zeros(layers, layers, dtype=torch.bool)
    for pair in text.split():
        block, layer = map(int, pair.split("-"))
        edges[block, layer] = True
    return edges
