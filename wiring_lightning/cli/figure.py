"""`wiring figure KIND RUN...`: the figures of the papers from run folders."""

from argparse import Namespace
from collections.abc import Sequence

from wiring_lightning.cli.arguments import RUN, RunsParser

KINDS = {
    "connectivity": "the fixed wiring beside that of one run (MaskConnect, Figure 4)",
    "active": "live branches by depth, one series a run (MaskConnect, Figure 5)",
    "graph": "the wiring of one run, as suits it: channels (DNW), modules or a fabric",
    "degrees": "edges in and out of the channels of one run (DNW)",
    "accuracy": "test accuracy over the fan-in K (MaskConnect, Figures 2 and 3)",
    "efficiency": "test accuracy over parameters and multiply-adds (SparseNet, Figure 2)",
    "reuse": "how much each layer of one run uses earlier ones (SparseNet, Figure 3)",
    "scaling": "parameters, links and paths over depth; of no run (SparseNet, Table 1)",
}
_ONE_RUN = ("connectivity", "graph", "degrees", "reuse")
_COMPARED = ("accuracy", "efficiency")

_DESCRIPTION = """\
Draw a figure of the papers from your own runs.

kinds:
{kinds}

{run} connectivity, active, graph, degrees, efficiency and reuse read its
last checkpoint, accuracy and efficiency the test accuracy that it logged.

accuracy has the mean and standard deviation of the runs of one wiring and K; full and previous
wirings become horizontal lines. Runs that differ in network, data or epochs are refused, and a note
says if those of one mean differ in more than their seed. efficiency has the mean of runs that
differ only in their seed, and refuses runs that differ in their data. --mix lets both go on.

Of several runs, those that are not finished, or whose accuracy is NaN or infinite, are left out
with a note, and a checkpoint that was tested twice counts once. scaling takes no run: it measures
untrained networks of many depths.
"""
_EXAMPLES = """\
examples:
  wiring figure connectivity lightning_logs/version_0
  wiring figure active lightning_logs/version_0 lightning_logs/version_1 -o depth.svg
  wiring figure graph lightning_logs/version_0
  wiring figure degrees lightning_logs/version_0
  wiring figure accuracy lightning_logs/version_*
  wiring figure efficiency lightning_logs/version_*
  wiring figure reuse lightning_logs/version_0
  wiring figure scaling --output table1.pdf
"""


def run(arguments: Sequence[str]) -> None:
    """Draw a figure into its file, and print the path.

    Raises:
        RunError: if a folder is no run, or has not what the figure needs.
        CheckpointError: if a checkpoint cannot be read.
        FileExistsError: if the file is there already.
        UntrustedError: if a network is not of this package, and not trusted.
        ValueError: if the ending of the file names no format of pictures.
    """
    given = parse(arguments)  # before torch is loaded
    from wiring_lightning.cli import kinds
    from wiring_lightning.cli.several_runs import find_runs
    from wiring_lightning.files import check_picture, free_path
    from wiring_lightning.plots import save_figure

    if given.output:
        check_picture(given.output, "-o", given.overwrite)
    options = {"mix": given.mix} if given.kind in _COMPARED else {}
    figure = getattr(kinds, given.kind)(*find_runs(given.runs, given.trust), **options)
    path = given.output or free_path(f"{given.kind}.png")
    save_figure(figure, path)
    print(path)


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the arguments; help and bad arguments end the process.

    Example:
        >>> given = parse(["active", "run1", "run2"])
        >>> given.kind, [str(run) for run in given.runs]
        ('active', ['run1', 'run2'])
    """
    width = max(map(len, KINDS)) + 2
    kinds = "\n".join(f"  {name:<{width}}{text}" for name, text in KINDS.items())
    parser = RunsParser("figure", _DESCRIPTION.format(kinds=kinds, run=RUN), _EXAMPLES)
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
    parser.add_runs("*")
    parser.add_mix("what an accuracy or efficiency figure compares")
    parser.add_trust()
    parser.add_picture("KIND.png")
    given = parser.parse_args(arguments)
    if given.kind == "scaling" and given.runs:
        parser.error(f"scaling draws no run, but {len(given.runs)} are given")
    if given.kind != "scaling" and not given.runs:
        parser.error(f"{given.kind} needs the folder of a RUN")
    if given.kind in _ONE_RUN and len(given.runs) > 1:
        parser.error(f"{given.kind} draws one run, but {len(given.runs)} are given")
    if given.mix and given.kind not in _COMPARED:
        parser.error(f"--mix is for {' and '.join(_COMPARED)}")
    return given
