"""What a wiring costs, in words and numbers."""

from collections.abc import Sequence
from typing import Any

from wiring_lightning import costs
from wiring_lightning.wiring import Wiring


def summarize(wiring: Wiring) -> dict[str, Any]:
    """Sizes of a wiring, everything that could be against what is live.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> summary = summarize(ResNeXt(depth=20, width=4, num_classes=100, wiring="full").wiring())
        >>> summary["params"], summary["modules"]
        ({'total': 283572, 'live': 283572}, {'total': 48, 'live': 48})
    """
    inner = slice(1, -1)  # without the input and the output, which are always there
    return {
        "params": {
            "total": int(costs.parameters(wiring, live=False)),
            "live": int(costs.parameters(wiring)),
        },
        "multiply_adds": {
            "total": int(costs.multiply_adds(wiring, live=False)),
            "live": int(costs.multiply_adds(wiring)),
        },
        "edges": {"candidate": wiring.candidates, "active": int(wiring.active.sum())},
        "modules": {
            "total": len(wiring.nodes) - 2,
            "live": int(wiring.live_nodes[inner].sum()),
        },
        "sequential_steps": _steps(wiring),
        "live_per_group": live_per_group(wiring),
    }


def _steps(wiring: Wiring) -> dict[str, int]:
    """Sequential steps by number of machines; none for a graph with cycles, which has no number."""
    try:
        return {
            str(machines): int(costs.sequential_steps(wiring, machines)) for machines in (1, 2, 4)
        }
    except ValueError as error:
        if "cycle" not in str(error):
            raise
        return {}


def live_per_group(wiring: Wiring) -> dict[str, list[int]]:
    """Live and all nodes of every group that has several, by the group's name."""
    alone = set(wiring.nodes.names)
    return {name: counts for name, counts in wiring.live_per_group().items() if name not in alone}


def summary_rows(wiring: Wiring) -> list[tuple[str, str]]:
    """The rows of the table that a person reads."""
    summary, (_, nodes) = summarize(wiring), wiring.noun
    rows = []
    for key, label in (("params", "parameters"), ("multiply_adds", "multiply-adds"),
                       ("modules", nodes)):  # fmt: skip
        total, live = summary[key]["total"], summary[key]["live"]
        share = f" ({live / total:.1%})" if total else ""
        rows.append((label, f"{total:,} -> {live:,} after pruning{share}"))
    edges = summary["edges"]
    rows.append(("edges", f"{edges['active']:,} active of {edges['candidate']:,} candidates"))
    if summary["sequential_steps"]:
        steps = ", ".join(f"{steps} on {n}" for n, steps in summary["sequential_steps"].items())
        rows.append(("steps on n machines", steps))
    if summary["live_per_group"]:
        counts = summary["live_per_group"].items()
        rows.append(
            (f"live {nodes}", ", ".join(f"{name} {live}/{total}" for name, (live, total) in counts))
        )
    return rows


def format_table(rows: Sequence[tuple[str, str]], width: int = 100) -> str:
    """Two aligned columns; long cells continue on the next line at a comma.

    Example:
        >>> print(format_table([("accuracy", "0.98"), ("live", "a 1, b 2, c 3")], width=18))
        accuracy  0.98
        live      a 1, b 2,
                  c 3
    """
    first = max(len(label) for label, _ in rows) + 2
    lines = []
    for label, text in rows:
        line = f"{label:<{first}}"
        for number, part in enumerate(text.split(", ")):
            piece = part if number == 0 else f" {part}"
            last = number == text.count(", ")
            if number and len(line) + len(piece) + (not last) > width:
                lines.append(line)
                line = " " * first + part
            else:
                line += piece
            line += "" if last else ","
        lines.append(line)
    return "\n".join(lines)
