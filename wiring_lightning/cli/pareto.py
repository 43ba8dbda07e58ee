"""`wiring pareto RUN...`: the best networks at every cost, from run folders."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wiring_lightning.cli.arguments import RUN, RunsParser

if TYPE_CHECKING:
    from wiring_lightning.cli.runs import Run
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
last val/acc and test/acc that it logged. Of several runs, those that are not finished, or whose
accuracy is NaN or infinite, are left out with a note, and a checkpoint that was tested twice counts
once. Runs that differ in their data are refused, unless --mix is given.

Prints the selected networks as a Markdown table, and writes the picture, the same table (.md)
and all networks (.csv) beside each other.
"""
_EXAMPLES = """\
examples:
  wiring pareto runs/*/lightning_logs/version_0
  wiring pareto lightning_logs/version_* --cost sequential_steps --machines 4 -o steps.svg
"""


def run(arguments: Sequence[str]) -> None:
    """Print the table of selected networks, and write it, all networks and the picture.

    Raises:
        RunError: if a folder is no run, or has no network or accuracy, or the data differ.
        CheckpointError: if a checkpoint cannot be read.
        FileExistsError: if a file is there already.
        ValueError: if the ending of the file names no format of pictures.
    """
    given = parse(arguments)  # before torch is loaded
    from wiring_lightning.cli.comparable import check_alike, different_data
    from wiring_lightning.cli.messages import note
    from wiring_lightning.cli.run_names import distinct_names
    from wiring_lightning.cli.run_steps import costs_apart
    from wiring_lightning.cli.runs import Run
    from wiring_lightning.cli.several_runs import find_runs, finished
    from wiring_lightning.costs import named_cost
    from wiring_lightning.files import check_outputs, check_picture, free_path, write_file
    from wiring_lightning.plots import Candidate, draw_pareto, save_figure, select

    output = given.output or free_path("pareto.png")
    markdown, csv = output.with_suffix(".md"), output.with_suffix(".csv")
    check_picture(output, "-o", given.overwrite)
    check_outputs([markdown, csv], "-o", given.overwrite)
    runs = find_runs(given.runs, given.trust)
    val, test = (lambda run: run.accuracy("val")), (lambda run: run.accuracy("test"))
    runs = finished(runs, Run.checkpoint, val, test)
    check_alike(different_data(runs, ["val", "test"]), given.mix)
    price = named_cost(given.cost, given.machines)
    names = distinct_names([run.folder for run in runs])
    candidates = [
        Candidate(
            run.family,
            name,
            float(price(run.wiring)),
            run.accuracy("val"),
            run.accuracy("test"),
        )
        for run, name in zip(runs, names, strict=True)
    ]
    chosen = select(candidates)
    table = _markdown(chosen, given.unit)
    print(table)  # before anything is written: a full disk must not lose it
    if apart := costs_apart(runs, "test/acc"):
        note(apart)
    if given.cost != "sequential_steps":
        _note_zeros(runs)
    save_figure(draw_pareto(candidates, given.unit, title=runs[0].data), output)
    write_file(markdown, table.encode())
    write_file(csv, _csv(candidates, chosen, given.unit).encode())
    print(f"{len(chosen)} of {len(candidates)} selected: {output}, {markdown}, {csv}")


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the arguments; help and bad arguments end the process.

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
    parser.add_mix("their data")
    parser.add_trust()
    parser.add_picture("pareto.png")
    given = parser.parse_args(arguments)
    if given.machines < 1:
        parser.error(f"--machines must be at least 1, got {given.machines}")
    if given.machines > 1 and given.cost != "sequential_steps":
        parser.error("--machines is for --cost sequential_steps")
    # What the cost counts, in words.
    given.unit = COSTS[given.cost] + f" on {given.machines} machines" * (given.machines > 1)
    return given


def _note_zeros(runs: Sequence["Run"]) -> None:
    """Say that costs include weights that are zero, if a network has sparse layers."""
    from torch import nn

    from wiring_lightning.cli.messages import note
    from wiring_lightning.cli.report import sparse_rows

    for run in runs:
        if isinstance(run.network, nn.Module) and sparse_rows(run.network):
            what = "the costs count the weights that are zero in sparse layers, too"
            note(f"{what}, as of {run.folder}")
            return


def _markdown(chosen: Sequence["Candidate"], unit: str) -> str:
    """The table of the selected networks."""
    from wiring_lightning.cli.table_text import markdown

    names = ["network", "run", unit, "validation accuracy (%)", "test accuracy (%)"]
    rows = []
    for one in chosen:
        assert one.test is not None
        accuracies = [f"{100 * share:.2f}" for share in (one.validation, one.test)]
        rows.append([one.family, one.name, f"{one.cost:,.0f}", *accuracies])
    return markdown(names, rows)


def _csv(candidates: Sequence["Candidate"], chosen: Sequence["Candidate"], unit: str) -> str:
    """All networks with all digits, and which of them are selected."""
    from csv import writer
    from io import StringIO

    out = StringIO()
    table = writer(out, lineterminator="\n")
    names = ["network", "run", unit.replace(" ", "_"), "validation", "test", "selected"]
    table.writerow(names)
    for one in sorted(candidates, key=lambda one: (one.family, one.cost)):
        test = "" if one.test is None else f"{one.test:.6f}"
        numbers = [f"{one.cost:.0f}", f"{one.validation:.6f}", test, int(one in chosen)]
        table.writerow([one.family, one.name, *numbers])
    return out.getvalue()
