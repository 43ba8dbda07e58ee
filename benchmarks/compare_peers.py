"""Other tools for sparse weights beside those of this package, on the same small job.

    python -m benchmarks.compare_peers --markdown results/peers.md

Installs rigl-torch, sparsimony and torchao from pip into a temporary environment that shares the
torch of this one. torch.ao.pruning is part of torch, and ModelPruning of Lightning. Every tool
trains the network of `benchmarks.peers.job` to a density of 0.1 and is asked what
`benchmarks.peers.checks` asks, each question in a process of its own.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.peers.checks import CHECKS, TOOLS
from benchmarks.peers.environment import OF_OTHERS, ON_PIP, Environment
from benchmarks.peers.job import BATCH, DENSITY, EPOCH, EVERY, Plan
from benchmarks.peers.table import table


def main() -> None:
    options = _options()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder))
        for tool in options.tools:
            said = environment.install(ON_PIP[tool]) if tool in ON_PIP else ""
            answers = _answers(tool, environment, options) if not said else {}
            rows[_title(tool, environment)] = answers or {"pip": {"failed": said}}
    lines = [*_heading(options), *table(rows)]
    print("\n".join(lines))
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--checks", nargs="+", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--backend", default="aot_eager", help="of torch.compile; the graphs are "
                        "those of inductor, and this one needs no compiler")  # fmt: skip
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one question")
    parser.add_argument("--answers", help="file that keeps answers; what it has is not asked again")
    parser.add_argument("--markdown", help="file to write the table into")
    return parser.parse_args()


def _answers(tool: str, environment: Environment, options: argparse.Namespace) -> dict[str, Any]:
    kept = Path(options.answers) if options.answers else None
    known = json.loads(kept.read_text()) if kept and kept.exists() else {}
    answers = known.setdefault(tool, {})
    for check in options.checks:
        if check in answers:
            continue
        answers[check] = environment.ask(tool, check, options.backend, options.limit)
        print(f"{tool}, {check}: {answers[check]}", flush=True)
        if kept:
            kept.write_text(json.dumps(known))
    return {check: answers[check] for check in options.checks}


def _title(tool: str, environment: Environment) -> str:
    """The tool with its version."""
    first, _, rest = tool.partition(", ")
    if first in ON_PIP:
        return f"{tool} {environment.version(ON_PIP[first])}".strip()
    if first in OF_OTHERS:
        package = OF_OTHERS[first]
        rest = ", `make_pruning_permanent=False`" if rest else ""
        return f"{first}{rest} ({package} {environment.version(package)})"
    return f"`callbacks.{tool}`, here"


def _heading(options: argparse.Namespace) -> list[str]:
    plan = Plan()
    return [
        "# Other tools for sparse weights, on the same job",
        "",
        f"{describe('cpu', 1)}. `python -m benchmarks.compare_peers`",
        "",
        f"Digits, {plan.epochs} epochs of {EPOCH} steps with {BATCH} images, SGD with momentum, "
        f"float64 (float32 where a scaler skips a step), density {DENSITY}, masks may change every "
        f"{EVERY} steps until three quarters of the training. A run is resumed from the checkpoint "
        "after half of the epochs; one that is resumed twice, once more an epoch later. The "
        "average has a decay of 0.9. DDP has two gloo processes. torch.compile has the backend "
        f"{options.backend}. The accuracy only shows that the job was learned: the networks are "
        "sparse in different layers, and there is one seed.",
        "",
    ]


if __name__ == "__main__":
    main()
