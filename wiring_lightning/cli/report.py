"""The costs of a network as a table or plain values: of its wiring, or of its weights."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wiring_lightning import costs
from wiring_lightning.costs.layers import LayerCost, sum_of
from wiring_lightning.costs.scheduling import steps_by_machines
from wiring_lightning.costs.shares import percent
from wiring_lightning.nn import find_adjacencies, find_bernoulli_gates
from wiring_lightning.wiring import Planted, Wiring, find_wired

BY_LAYER = "kept by layer"  # label of the row about single layers


def summarize(wiring: Wiring, searched: bool = False) -> dict[str, Any]:
    """Sizes of a wiring: of all candidates, and of the live part.

    Args:
        wiring: the wiring.
        searched: whether a search draws each edge by itself. An edge then counts as active only if
            it is live: of an edge that leads nowhere, nothing is ever drawn.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> summary = summarize(ResNeXt(depth=20, width=4, num_classes=100, wiring="full").wiring())
        >>> summary["params"], summary["modules"]
        ({'total': 283572, 'live': 283572}, {'total': 48, 'live': 48})
    """
    inner = slice(1, -1)  # without the input and the output
    return {
        "params": {
            "total": int(costs.parameters(wiring, live=False)),
            "live": int(costs.parameters(wiring)),
        },
        "multiply_adds": {
            "total": int(costs.multiply_adds(wiring, live=False)),
            "live": int(costs.multiply_adds(wiring)),
        },
        "edges": {
            "candidate": wiring.candidates,
            "active": int((wiring.live_edges if searched else wiring.active).sum()),
        },
        "modules": {
            "total": len(wiring.nodes) - 2,
            "live": int(wiring.live_nodes[inner].sum()),
        },
        "sequential_steps": _steps(wiring),
        "live_per_group": live_per_group(wiring),
    }


def _steps(wiring: Wiring) -> dict[str, int]:
    """Sequential steps by number of machines; empty for a graph with cycles."""
    try:
        return {str(n): steps for n, steps in steps_by_machines(wiring, (1, 2, 4)).items()}
    except ValueError as error:
        if "cycle" not in str(error):
            raise
        return {}


def live_per_group(wiring: Wiring) -> dict[str, list[int]]:
    """Live and all nodes of every group with several nodes, by the group's name."""
    alone = set(wiring.nodes.names)
    return {name: counts for name, counts in wiring.live_per_group().items() if name not in alone}


def network_rows(module: nn.Module, layers: Sequence[LayerCost] = ()) -> list[tuple[str, str]]:
    """The rows of the table that a person reads about a network: its wiring, or its weights.

    Args:
        module: the network, or a module that holds it.
        layers: its layers, if a learner or someone else has counted them already.
    """
    network = find_wired(module)
    if network is None:
        first, *others = weight_rows(module, layers)
        return [first, *multiply_add_rows(layers), *others]
    searched, wiring = bool(find_bernoulli_gates(module)), network.wiring()
    rows = [*summary_rows(wiring, searched), *sparse_rows(module, layers)]
    if any(layer.sparse for layer in layers):
        rows += [("sparse multiply-adds", text) for _, text in multiply_add_rows(layers)]
    if isinstance(network, Planted):
        rows = [*recovered_rows(wiring, network.planted_wiring()), *rows]
    return rows


def recovered_rows(wiring: Wiring, planted: Wiring) -> list[tuple[str, str]]:
    """The row that says how many edges of the right wiring are there, and how many by chance.

    Only edges into nodes with a choice count, those of which not all candidates are right.

    Args:
        wiring: a wiring.
        planted: the right one, of the same nodes and edges.

    Example:
        >>> from wiring_lightning.backbones import GatedHeads
        >>> right = GatedHeads(wiring="planted").wiring()
        >>> recovered_rows(right, right)
        [('edges recovered', '16 of 16 (4.0 by chance)')]
    """

    def count(edges: Tensor) -> Tensor:
        """`[nodes]` how many of these edges lead to each node."""
        counts = torch.zeros(len(wiring.nodes), device="cpu")
        return counts.index_add(0, wiring.target, edges.float())

    candidates = count(torch.ones_like(planted.active))
    right, own = count(planted.active), count(wiring.active)
    choice = right < candidates
    found = count(wiring.active & planted.active)[choice].sum()
    chance = (own * right / candidates)[choice].sum()
    total = right[choice].sum()
    return [("edges recovered", f"{found:,.0f} of {total:,.0f} ({chance:,.1f} by chance)")]


def summary_rows(wiring: Wiring, searched: bool = False) -> list[tuple[str, str]]:
    """The rows about a wiring; arguments as for `summarize`."""
    summary, (_, nodes) = summarize(wiring, searched), wiring.noun
    rows = []
    for key, label in (("params", "parameters"), ("multiply_adds", "multiply-adds"),
                       ("modules", nodes)):  # fmt: skip
        total, live = summary[key]["total"], summary[key]["live"]
        share = f" ({percent(live / total)})" if total else ""
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


def summarize_weights(
    module: nn.Module, layers: Sequence[LayerCost] | None = None
) -> dict[str, Any]:
    """Total and nonzero parameters of a network, and what each layer keeps.

    Args:
        module: the network, or a module that holds it.
        layers: its layers, as of `costs.layer_costs`; looked at here if not given.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> summary = summarize_weights(nn.Sequential(layer))
        >>> summary["params"], summary["weights"]
        ({'total': 10, 'nonzero': 6}, {'total': 8, 'nonzero': 4})
        >>> summary["layers"]["0"]["density"], summary["layers"]["0"]["dead_rows"]
        (0.5, 1)
    """
    layers = costs.layer_costs(module) if layers is None else layers
    everything = sum_of(layers)
    parameters = list(module.parameters())
    summary = {
        "params": {
            "total": sum(parameter.numel() for parameter in parameters),
            "nonzero": sum(int(parameter.count_nonzero()) for parameter in parameters),
        },
        "weights": {"total": everything.weights, "nonzero": everything.kept},
    }
    if layers and everything.multiply_adds is not None:
        summary["multiply_adds"] = _multiply_adds(everything)
    return {**summary, "layers": {layer.name: _layer(layer) for layer in layers}}


def summarize_zeros(module: nn.Module, layers: Sequence[LayerCost]) -> dict[str, Any]:
    """What the layers of a network with a wiring keep beside it; empty if none is sparse.

    Graphs of channels are left out: their edges are those of the wiring.

    Args:
        module: the network, or a module that holds it.
        layers: its layers.
    """
    graphs = find_adjacencies(module)
    own = [layer for layer in layers if layer.name not in graphs]
    if not any(layer.sparse for layer in own):
        return {}
    everything = sum_of(own)
    summary: dict[str, Any] = {"weights": {"total": everything.weights, "nonzero": everything.kept}}
    if everything.multiply_adds is not None:
        summary["sparse_multiply_adds"] = _multiply_adds(everything)
    return summary


def _multiply_adds(layer: LayerCost) -> dict[str, int]:
    """Multiply-adds of all weights of a layer, and of those that are not zero."""
    assert layer.multiply_adds is not None
    assert layer.kept_multiply_adds is not None
    return {"total": layer.multiply_adds, "nonzero": layer.kept_multiply_adds}


def _layer(layer: LayerCost) -> dict[str, Any]:
    """What a layer keeps and costs, as plain values."""
    values: dict[str, Any] = {
        "shape": list(layer.shape),
        "total": layer.weights,
        "nonzero": layer.kept,
        "density": layer.density,
        "dead_rows": layer.dead_rows,
        "dead_columns": layer.dead_columns,
    }
    if layer.multiply_adds is not None:
        values["multiply_adds"] = _multiply_adds(layer)
    return values


def multiply_add_rows(layers: Sequence[LayerCost]) -> list[tuple[str, str]]:
    """The row about the multiply-adds of some layers; none if they are not known.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> multiply_add_rows(costs.layer_costs(layer, torch.zeros(1, 4)))
        [('multiply-adds', '8 -> 4 without weights that are zero (50.0%)')]
    """
    everything = sum_of(layers)
    dense, kept = everything.multiply_adds, everything.kept_multiply_adds
    if not dense or kept is None:
        return []
    text = f"{dense:,} -> {kept:,} without weights that are zero ({percent(kept / dense)})"
    return [("multiply-adds", text)]


def sparse_rows(module: nn.Module, layers: Sequence[LayerCost] = ()) -> list[tuple[str, str]]:
    """The rows about layers that are sparse, beside what a wiring tells.

    Graphs of channels are left out: their edges are those of the wiring.

    Args:
        module: the network, or a module that holds it.
        layers: its layers; looked at here if not given.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> sparse_rows(nn.Sequential(layer, nn.Linear(2, 2)))
        [('weights kept', '4 of 8 in sparse layers (50.0%)'), ('kept by layer', '0 50.0%')]
    """
    graphs = find_adjacencies(module)
    layers = layers or costs.layer_costs(module)
    sparse = [layer for layer in layers if layer.sparse and layer.name not in graphs]
    if not sparse:
        return []
    total = sum_of(sparse)
    share = percent(total.density)
    return [
        ("weights kept", f"{total.kept:,} of {total.weights:,} in sparse layers ({share})"),
        (BY_LAYER, _shares(sparse)),
    ]


def weight_rows(module: nn.Module, layers: Sequence[LayerCost] = ()) -> list[tuple[str, str]]:
    """The weights of a network as rows of a table, with layers if one of them is sparse.

    Args:
        module: the network, or a module that holds it.
        layers: its layers; looked at here if not given.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> weight_rows(nn.Sequential(layer))[1:]
        [('weights', '8, 4 of them not zero (50.0%)'), ('kept by layer', '0 50.0%')]
    """
    layers = layers or costs.layer_costs(module)
    total = sum_of(layers)
    rows = [("parameters", f"{sum(parameter.numel() for parameter in module.parameters()):,}")]
    if total.weights:
        share = percent(total.density)
        rows.append(("weights", f"{total.weights:,}, {total.kept:,} of them not zero ({share})"))
    if total.sparse:
        rows.append((BY_LAYER, _shares(layers)))
    return rows


def _shares(layers: Sequence[LayerCost]) -> str:
    return ", ".join(f"{layer.name} {percent(layer.density)}" for layer in layers)


def format_table(rows: Sequence[tuple[str, str]], width: int = 100, first: int = 0) -> str:
    """Two aligned columns; long cells wrap at commas.

    Args:
        rows: label and text of each.
        width: of the table.
        first: of the labels, if other rows are to follow; by default as wide as the longest.

    Example:
        >>> print(format_table([("accuracy", "0.98"), ("live", "a 1, b 2, c 3")], width=18))
        accuracy  0.98
        live      a 1, b 2,
                  c 3
    """
    first = max(first, *(len(label) for label, _ in rows)) + 2
    lines = []
    for label, text in rows:
        start, *others = re.split("(?<=,) ", text)
        line = f"{label:<{first}}{start}"
        for part in others:
            if len(line) + 1 + len(part) > width:
                lines.append(line)
                line = " " * first + part
            else:
                line += f" {part}"
        lines.append(line)
    return "\n".join(lines)
