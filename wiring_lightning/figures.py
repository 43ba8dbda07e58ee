"""The figures of the papers from run folders: `wiring figure KIND RUN...`.

Nothing heavy is imported before the arguments are known to be good.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
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
    "graph": "the wiring of one run, as suits it: channels (DNW), modules or a fabric",
    "degrees": "edges in and out of the channels of one run (DNW)",
    "accuracy": "test accuracy over the fan-in K (MaskConnect, Figures 2 and 3)",
    "efficiency": "test accuracy over parameters and multiply-adds (SparseNet, Figure 2)",
    "reuse": "how much each layer of one run uses earlier ones (SparseNet, Figure 3)",
    "scaling": "parameters, links and paths over depth; of no run (SparseNet, Table 1)",
}

_DESCRIPTION = """\
Draw a figure of the papers from your own runs.

kinds:
{kinds}

A RUN is a folder that `wiring fit` wrote, such as lightning_logs/version_0, or a folder above
it that holds no other run. connectivity, active, graph, degrees, efficiency and reuse read its
last checkpoint, accuracy and efficiency the test accuracy in its event files. Runs that
differ only in their seed become a mean with the standard deviation; full and previous wirings
become horizontal lines. scaling takes no run: it measures untrained networks of many depths.
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
# Depths of the networks in the picture of their scaling: three equal stages each.
_DEPTHS_CONCATENATED = (22, 40, 100, 202, 400, 1000)
_DEPTHS_SUMMED = (29, 56, 110, 200, 407, 1001)


@dataclass(frozen=True)
class Request:
    """A figure that was asked for: its kind, the folders of the runs, the file to write."""

    kind: str
    folders: tuple[Path, ...]
    output: Path


class OneLineParser(ArgumentParser):
    """Says in one line what is wrong, as the other subcommands do."""

    @override
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"wiring: error: {message} (see {self.prog} --help)\n")
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
    parser = OneLineParser(
        prog="wiring figure",
        description=_DESCRIPTION.format(kinds=kinds),
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
    parser.add_argument("runs", metavar="RUN", nargs="*", type=Path, help="folder of a run")
    what = "picture to write, .png, .pdf or .svg (default: KIND.png)"
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=what)
    given = parser.parse_args(arguments)
    if given.kind == "scaling" and given.runs:
        parser.error(f"scaling draws no run, but {len(given.runs)} are given")
    if given.kind != "scaling" and not given.runs:
        parser.error(f"{given.kind} needs the folder of a RUN")
    if given.kind in ("connectivity", "graph", "degrees", "reuse") and len(given.runs) > 1:
        parser.error(f"{given.kind} draws one run, but {len(given.runs)} are given")
    return Request(given.kind, tuple(given.runs), given.output or Path(f"{given.kind}.png"))


def make(request: Request) -> None:
    """Draw a figure into its file, and print the path.

    Raises:
        RunError: if a folder is no run, or has not what the figure needs.
        CheckpointError: if a checkpoint cannot be read.
        ValueError: if the ending of the file names no format of pictures.
    """
    from wiring_lightning.plots import save_figure
    from wiring_lightning.runs import find_runs

    runs = find_runs(request.folders)
    draw = {
        "connectivity": _connectivity,
        "active": _active,
        "graph": _graph,
        "degrees": _degrees,
        "accuracy": _accuracy,
        "efficiency": _efficiency,
        "reuse": _reuse,
        "scaling": _scaling,
    }[request.kind]
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


def _graph(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import draw_architecture

    (run,) = runs
    return draw_architecture(run.wiring)


def _degrees(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import draw_degrees, is_channel_graph
    from wiring_lightning.runs import RunError

    (run,) = runs
    if not is_channel_graph(run.wiring):
        raise RunError(
            f"The nodes of {run.folder} are no channels: use a run of NeuralGraph or "
            "MobileNetV1DNW."
        )
    return draw_degrees(run.wiring)


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


def _efficiency(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning import costs
    from wiring_lightning.plots import Efficiency, draw_efficiency
    from wiring_lightning.runs import RunError

    data = [run.setting["data"] for run in runs]
    if len(set(data)) > 1:
        raise RunError(
            f"The runs are on different data ({', '.join(sorted(set(data)))}): give runs on one."
        )
    networks = [
        Efficiency(
            run.family,
            int(costs.parameters(run.wiring)),
            int(costs.multiply_adds(run.wiring)),
            run.test_accuracy(),
        )
        for run in runs
    ]
    return draw_efficiency(networks, title=data[0])


def _reuse(runs: Sequence["Run"]) -> "Figure":
    from wiring_lightning.plots import ReusesFeatures, draw_feature_reuse
    from wiring_lightning.runs import RunError

    (run,) = runs
    if not isinstance(run.network, ReusesFeatures):
        raise RunError(
            f"The {type(run.network).__name__} of {run.folder} has no `feature_reuse()`: use a run "
            "of a network that concatenates, such as SparseNet."
        )
    return draw_feature_reuse(run.network.feature_reuse(), run.family)


def _scaling(_: Sequence["Run"]) -> "Figure":
    import torch

    from wiring_lightning.backbones import SparseNet, SparseResNet
    from wiring_lightning.plots import Scaling, draw_scaling
    from wiring_lightning.wiring import Wired

    networks: dict[str, tuple[Callable[[int], Wired], tuple[int, ...]]] = {
        "DenseNet, k = 12": (lambda n: SparseNet(n, 12, pattern="dense"), _DEPTHS_CONCATENATED),
        "SparseNet, k = 12": (lambda n: SparseNet(n, 12), _DEPTHS_CONCATENATED),
        "ResNet": (lambda n: SparseResNet(n, "dense"), _DEPTHS_SUMMED),
        "SparseNet [+]": (SparseResNet, _DEPTHS_SUMMED),
        # With the depth as base, a layer reads nothing but the one before it.
        "plain": (lambda n: SparseResNet(n, base=n), _DEPTHS_SUMMED),
    }

    def measure(make: Callable[[int], Wired], depth: int) -> Scaling:
        with torch.device("meta"):  # nothing is computed with these networks
            network = make(depth)
        return Scaling.of(depth, network.wiring())

    return draw_scaling(
        {name: [measure(make, n) for n in depths] for name, (make, depths) in networks.items()}
    )


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
