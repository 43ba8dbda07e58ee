"""`wiring pareto RUN...`: the best networks at every cost, from run folders."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wiring_lightning.cli.arguments import RUN, RunsParser

if TYPE_CHECKING:
    from wiring_lightning.plots import Candidate

COSTS = {
    "multiply_adds": "multiply-adds",
    "parameters": "parameters",
    "sequential_steps": "sequential steps",
}

_DESCRIPTION = f"""\
Select the best networks at every cost among your own runs (the protocol of BSN).

A network is selected if no other one of its kind costs no more and is more accurate on the
validation images. What is reported is the accuracy of the selected networks on the test images,
which had no part in the choice. Searched and given architectures are kinds of their own.

{RUN} Costs are those of the network in its last checkpoint, accuracies the
last val/acc and test/acc in its event files.

Prints the selected networks as a Markdown table, and writes the picture, the same table (.md)
and all networks (.csv) beside each other.
"""
_EXAMPLES = """\
examples:
  wiring pareto runs/*/lightning_logs/version_0
  wiring pareto lightning_logs/version_* --cost sequential_steps --machines 4 -o steps.svg
"""


def run(arguments: Sequence[str]) -> None:
    """Print the table of selected networks; write the picture, the table and all networks."""
    given = parse(arguments)  # before torch is imported
    from wiring_lightning.cli.runs import RunError, check_alike, distinct_names, find_runs
    from wiring_lightning.costs import named_cost
    from wiring_lightning.plots import Candidate, draw_pareto, save_figure, select

    runs = find_runs(given.runs)
    check_alike(runs, ["data"], "on one data set")
    price = named_cost(given.cost, given.machines)
    names = distinct_names([run.folder for run in runs])
    candidates = [
        Candidate(
            run.family,
            name,
            float(price(run.wiring)),
            run.accuracy("val"),
            run.last_number("test/acc"),
        )
        for run, name in zip(runs, names, strict=True)
    ]
    chosen = select(candidates)
    for one in chosen:
        if one.test is None:
            run = runs[candidates.index(one)]
            raise RunError(
                f"The run {run.folder} is selected, but has no test accuracy: run `wiring test` "
                "with its config and checkpoint, and give the folder that it writes."
            )
    save_figure(draw_pareto(candidates, given.unit, title=runs[0].setting["data"]), given.output)
    table = _markdown(chosen, given.unit)
    markdown, csv = given.output.with_suffix(".md"), given.output.with_suffix(".csv")
    markdown.write_text(table, encoding="utf-8")
    csv.write_text(_csv(candidates, chosen, given.unit), encoding="utf-8")
    print(table)
    print(f"{len(chosen)} of {len(candidates)} selected: {given.output}, {markdown}, {csv}")


def parse(arguments: Sequence[str]) -> Namespace:
    """Parse the arguments; `--help` and errors end the process.

    Example:
        >>> parse(["run1", "run2", "--cost", "sequential_steps", "--machines", "4"]).unit
        'sequential steps on 4 machines'
    """
    parser = RunsParser("pareto", _DESCRIPTION, _EXAMPLES)
    parser.add_runs("+")
    names = ", ".join(COSTS)
    what = f"{names} (default: multiply_adds)"
    parser.add_argument("--cost", default="multiply_adds", choices=COSTS, metavar="COST", help=what)
    what = "machines that share the sequential steps (default: 1)"
    parser.add_argument("--machines", default=1, type=int, metavar="N", help=what)
    parser.add_picture("pareto.png")
    given = parser.parse_args(arguments)
    if given.machines < 1:
        parser.error(f"--machines must be at least 1, got {given.machines}")
    if given.machines > 1 and given.cost != "sequential_steps":
        parser.error("--machines is for --cost sequential_steps")
    given.output = given.output or Path("pareto.png")
    given.unit = COSTS[given.cost] + f" on {given.machines} machines" * (given.machines > 1)
    return given


def _markdown(chosen: Sequence["Candidate"], unit: str) -> str:
    lines = [f"| network | run | {unit} | validation accuracy (%) | test accuracy (%) |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for one in chosen:
        assert one.test is not None
        lines.append(
            f"| {one.family} | {one.name} | {one.cost:,.0f} | {100 * one.validation:.2f} | "
            f"{100 * one.test:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _csv(candidates: Sequence["Candidate"], chosen: Sequence["Candidate"], unit: str) -> str:
    lines = [f"network,run,{unit.replace(' ', '_')},validation,test,selected"]
    for one in sorted(candidates, key=lambda one: (one.family, one.cost)):
        test = "" if one.test is None else f"{one.test:.6f}"
        lines.append(
            f'"{one.family}","{one.name}",{one.cost:.0f},{one.validation:.6f},{test},'
            f"{int(one in chosen)}"
        )
    return "\n".join(lines) + "\n"
