"""The figures of the papers from run folders: `wiring figure KIND RUN...`.

Nothing heavy is imported before the arguments are known to be good.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wiring_lightning.runs import Run

KINDS = {
    "connectivity": "the fixed wiring beside that of one run (MaskConnect, Figure 4)",
    "active": "live branches by depth, one series a run (MaskConnect, Figure 5)",
    "accuracy": "test accuracy over the fan-in K (MaskConnect, Figures 2 and 3)",
}

_DESCRIPTION = """\
Draw a figure of the MaskConnect and GateConnect papers from your own runs.

kinds:
{kinds}

A RUN is a folder that `wiring fit` wrote, such as lightning_logs/version_0, or a folder above
it that holds no other run. connectivity and active read its last checkpoint, accuracy reads
the test accuracy in its event files. Runs that differ only in their seed become a mean with the
standard deviation; full and previous wirings become horizontal lines.
"""
_EXAMPLES = """\
examples:
  wiring figure connectivity lightning_logs/version_0
  wiring figure active lightning_logs/version_0 lightning_logs/version_1 -o depth.svg
  wiring figure accuracy lightning_logs/version_*
"""


@dataclass(frozen=True)
class Request:
    """A figure that was asked for: its kind, the folders of the runs, the file to write."""

    kind: str
    folders: tuple[Path, ...]
    output: Path


class _Parser(ArgumentParser):
    """Says in one line what is wrong, as the other subcommands do."""

    @override
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"wiring: error: {message} (see wiring figure --help)\n")
        raise SystemExit(2)


def parse(arguments: Sequence[str]) -> Request:
    """Read the command line behind `wiring figure`; help and bad arguments end the process.

    Example:
        >>> request = parse(["active", "run1", "run2"])
        >>> request.kind, str(request.output)
        ('active', 'active.png')
    """
    width = max(map(len, KINDS)) + 2
    kinds = "\n".join(f"  {name:<{width}}{text}" for name, text in KINDS.items())
    parser = _Parser(
        prog="wiring figure",
        description=_DESCRIPTION.format(kinds=kinds),
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run")
    what = "picture to write, .png, .pdf or .svg (default: KIND.png)"
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=what)
    given = parser.parse_args(arguments)
    if given.kind == "connectivity" and len(given.runs) > 1:
        parser.error(f"connectivity draws one run, but {len(given.runs)} are given")
    return Request(given.kind, tuple(given.runs), given.output or Path(f"{given.kind}.png"))


def make(request: Request) -> None:
    """Draw a figure into its file, and print the path.

    Raises:
        RunError: if a folder is no run, or has not what the figure needs.
        CheckpointError: if a checkpoint cannot be read.
        ValueError: if the ending of the file names no format of pictures.
    """
    from wiring_lightning.plots import save_figure
    from wiring_lightning.runs import RunError, find_run

    runs = [find_run(folder) for folder in request.folders]
    for folder, count in Counter(run.folder.resolve() for run in runs).items():
        if count > 1:
            raise RunError(f"The run {folder} is given {count} times: give it once.")
    draw = {"connectivity": _connectivity, "active": _active, "accuracy": _accuracy}[request.kind]
    save_figure(draw(runs), request.output)
    print(request.output)


def _connectivity(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import draw_connectivity

    (run,) = runs
    return draw_connectivity(run.wiring, run.label or "this run")


def _active(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import draw_active_by_depth
    from wiring_lightning.runs import distinct_names

    wirings = {}
    for run, name in zip(runs, distinct_names([run.folder for run in runs]), strict=True):
        words = run.label.removeprefix("learned, ")
        wirings[f"{words} ({name})" if words else name] = run.wiring
    return draw_active_by_depth(wirings)


def _accuracy(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import Measurement, draw_accuracy
    from wiring_lightning.runs import RunError

    _check_comparable(runs)
    measurements = []
    for run in runs:
        name, fan_in = run.connection
        if name is None:
            raise RunError(
                f"The network of {run.folder} has no fan-in: it holds no `nn.Gate`, and its config "
                "names no `wiring`."
            )
        measurements.append(Measurement(name, fan_in, run.test_accuracy()))
    return draw_accuracy(measurements, title=runs[0].setting["data"])


def _check_comparable(runs: Sequence["Run"]) -> None:
    """Refuse to average over different networks or data.

    Raises:
        RunError: if two runs differ in more than their wiring and fan-in.
    """
    from wiring_lightning.runs import RunError

    first = runs[0]
    for run in runs[1:]:
        for name, here in first.setting.items():
            there = run.setting.get(name)
            if here != there:
                raise RunError(
                    f"The runs {first.folder} and {run.folder} differ in {name} ({here} and "
                    f"{there}): give runs that differ in fan-in, wiring and seed only."
                )
