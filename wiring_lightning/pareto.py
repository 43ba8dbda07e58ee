"""The best networks at every cost, from run folders: `wiring pareto RUN...`.

Nothing heavy is imported before the arguments are known to be good.
"""

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wiring_lightning.figures import OneLineParser

if TYPE_CHECKING:
    from wiring_lightning.costs import CostName
    from wiring_lightning.plots import Candidate
    from wiring_lightning.runs import Run

COSTS: dict["CostName", str] = {
    "multiply_adds": "multiply-adds",
    "parameters": "parameters",
    "sequential_steps": "sequential steps",
}

_DESCRIPTION = """\
Select the best networks at every cost among your own runs (the protocol of BSN).

A network is selected if no other one of its kind costs no more and is more accurate on the
validation images. What is reported is the accuracy of the selected networks on the test images,
which had no part in the choice. Searched and given architectures are kinds of their own.

A RUN is a folder that `wiring fit` wrote, such as lightning_logs/version_0, or a folder above
it that holds no other run. Costs are those of the network in its last checkpoint, accuracies the
last val/acc and test/acc in its event files.

Prints the selected networks as a Markdown table, and writes the picture, the same table (.md)
and all networks (.csv) beside each other.
"""
_EXAMPLES = """\
examples:
  wiring pareto runs/*/lightning_logs/version_0
  wiring pareto lightning_logs/version_* --cost sequential_steps --machines 4 -o steps.svg
"""


@dataclass(frozen=True)
class Request:
    """A front that was asked for: the folders of the runs, the cost, the picture to write."""

    folders: tuple[Path, ...]
    cost: "CostName"
    machines: int
    output: Path

    @property
    def unit(self) -> str:
        """What the cost counts, in words."""
        machines = f" on {self.machines} machines" if self.machines > 1 else ""
        return COSTS[self.cost] + machines


def parse(arguments: Sequence[str]) -> Request:
    """Read the command line behind `wiring pareto`; help and bad arguments end the process.

    Example:
        >>> parse(["run1", "run2", "--cost", "parameters"]).unit
        'parameters'
    """
    parser = OneLineParser(
        prog="wiring pareto",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run")
    names = ", ".join(COSTS)
    what = f"{names} (default: multiply_adds)"
    parser.add_argument("--cost", default="multiply_adds", choices=COSTS, metavar="COST", help=what)
    what = "machines that share the sequential steps (default: 1)"
    parser.add_argument("--machines", default=1, type=int, metavar="N", help=what)
    what = "picture to write, .png, .pdf or .svg (default: pareto.png)"
    default = Path("pareto.png")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=default, help=what)
    given = parser.parse_args(arguments)
    if given.machines < 1:
        parser.error(f"--machines must be at least 1, got {given.machines}")
    if given.machines > 1 and given.cost != "sequential_steps":
        parser.error("--machines is for --cost sequential_steps")
    return Request(tuple(given.runs), given.cost, given.machines, given.output)


def make(request: Request) -> None:
    """Print the table of selected networks, and write it, all networks and the picture.

    Raises:
        RunError: if a folder is no run, or has no network or accuracy, or the data differ.
        CheckpointError: if a checkpoint cannot be read.
        ValueError: if the ending of the file names no format of pictures.
    """
    from wiring_lightning.plots import draw_pareto, save_figure, select
    from wiring_lightning.runs import RunError, find_runs

    runs = find_runs(request.folders)
    for run in runs[1:]:
        if run.setting["data"] != runs[0].setting["data"]:
            raise RunError(
                f"The runs {runs[0].folder} and {run.folder} have different data "
                f"({runs[0].setting['data']} and {run.setting['data']}): give runs on one data set."
            )
    candidates = _candidates(runs, request)
    chosen = select(candidates)
    for one in chosen:
        if one.test is None:
            run = runs[candidates.index(one)]
            raise RunError(
                f"The run {run.folder} is selected, but has no test accuracy: run `wiring test` "
                "with its config and checkpoint, and give the folder that it writes."
            )
    figure = draw_pareto(candidates, request.unit, title=runs[0].setting["data"])
    save_figure(figure, request.output)
    table = _markdown(chosen, request.unit)
    markdown, csv = request.output.with_suffix(".md"), request.output.with_suffix(".csv")
    markdown.write_text(table, encoding="utf-8")
    csv.write_text(_csv(candidates, chosen, request), encoding="utf-8")
    print(table)
    print(f"{len(chosen)} of {len(candidates)} selected: {request.output}, {markdown}, {csv}")


def _candidates(runs: Sequence["Run"], request: Request) -> list["Candidate"]:
    from wiring_lightning.costs import named_cost
    from wiring_lightning.plots import Candidate
    from wiring_lightning.runs import distinct_names

    price = named_cost(request.cost, request.machines)
    names = distinct_names([run.folder for run in runs])
    return [
        Candidate(
            run.family,
            name,
            float(price(run.wiring)),
            run.validation_accuracy(),
            run.last_number("test/acc"),
        )
        for run, name in zip(runs, names, strict=True)
    ]


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


def _csv(candidates: Sequence["Candidate"], chosen: Sequence["Candidate"], request: Request) -> str:
    lines = [f"network,run,{request.unit.replace(' ', '_')},validation,test,selected"]
    for one in sorted(candidates, key=lambda one: (one.family, one.cost)):
        test = "" if one.test is None else f"{one.test:.6f}"
        lines.append(
            f'"{one.family}","{one.name}",{one.cost:.0f},{one.validation:.6f},{test},'
            f"{int(one in chosen)}"
        )
    return "\n".join(lines) + "\n"
