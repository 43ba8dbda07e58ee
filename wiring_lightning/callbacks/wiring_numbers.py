"""Numbers about the gates and modules of a network."""

from collections.abc import Mapping
from itertools import takewhile

from wiring_lightning.callbacks.layer_table import Cell
from wiring_lightning.functional import score_entropy
from wiring_lightning.nn import Gate
from wiring_lightning.wiring import Wired

_COLUMNS = ("module", "live", "of", "fan_in", "entropy", "share_at_0", "share_at_1")


def wiring_table(
    gates: Mapping[str, Gate], network: Wired | None
) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """A row for every module, and for every gate that is none.

    Args:
        gates: by name; one that has the name of a module describes how the module is reached.
        network: the network inside of the task, if it has a wiring.

    Returns:
        The names of the columns: module, its live nodes and all of them, and of its gate the fan-in
        and the statistics of the scores. The rows; `None` where there is nothing to say.
    """
    live = {} if network is None else network.wiring().live_per_group()
    by_module = {name.rpartition(".")[2]: gate for name, gate in gates.items()}
    names = short_names(list(gates))
    rows: list[list[Cell]] = [
        [module, *counts, *_of_gate(by_module.get(module))] for module, counts in live.items()
    ]
    rows += [
        [names[name], None, None, *_of_gate(gate)]
        for name, gate in gates.items()
        if name.rpartition(".")[2] not in live
    ]
    return _COLUMNS, rows


def _of_gate(gate: Gate | None) -> list[Cell]:
    """The last four columns, which are empty for a module without a gate."""
    if gate is None:
        return [None] * 4
    return [gate.fan_in, *score_numbers(gate).values()]


def score_numbers(gate: Gate) -> dict[str, float]:
    """Statistics of the scores of a gate: `entropy`, `share_at_0` and `share_at_1`.

    Targets that take all of their candidates are left out, unless all targets do. `WiringMonitor`
    says what each number means.
    """
    scores = gate.scores.detach().cpu().float()
    choice = (scores >= 0).sum(-1) > gate.fan_in
    if choice.any():  # leave out targets that take all of their candidates
        scores = scores[choice]
    candidate = scores >= 0
    return {
        "entropy": float(score_entropy(scores).mean()),
        "share_at_0": float((scores[candidate] == 0).float().mean()),
        "share_at_1": float((scores[candidate] == 1).float().mean()),
    }


def short_names(names: list[str]) -> dict[str, str]:
    """Names without their common first parts; each keeps at least its last one.

    Example:
        >>> short_names(["backbone.connections.module2", "backbone.connections.module3"])
        {'backbone.connections.module2': 'module2', 'backbone.connections.module3': 'module3'}
        >>> short_names(["net.block", "net.block.block"])
        {'net.block': 'block', 'net.block.block': 'block.block'}
    """
    paths = [name.split(".") for name in names]
    # As many for all: two names would become one if the shorter kept more of them.
    fronts = zip(*(path[:-1] for path in paths), strict=False)
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, fronts)))
    return {name: ".".join(path[shared:]) for name, path in zip(names, paths, strict=True)}
