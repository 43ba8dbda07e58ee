"""The kinds of `wiring figure`: for each, a function of the same name that draws the runs."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from wiring_lightning import costs, plots
from wiring_lightning.backbones import SparseNet, SparseResNet
from wiring_lightning.cli.comparable import check_alike, different_curves, different_data
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.run_keys import differing, in_words, setting
from wiring_lightning.cli.run_names import distinct_names
from wiring_lightning.cli.run_rows import learners
from wiring_lightning.cli.run_steps import costs_apart
from wiring_lightning.cli.runs import Run, RunError
from wiring_lightning.cli.several_runs import finished
from wiring_lightning.wiring import Wired

# Depths of the networks in the picture of their scaling: three equal stages each.
_DEPTHS_CONCATENATED = (22, 40, 100, 202, 400, 1000)
_DEPTHS_SUMMED = (29, 56, 110, 200, 407, 1001)


def connectivity(run: Run) -> Figure:
    """The fixed wiring beside that of a run."""
    return plots.draw_connectivity(run.wiring, run.label or "this run")


def active(*runs: Run) -> Figure:
    """Live nodes by depth, one series a run."""
    # One run alone may be looked at while it trains.
    ended = (Run.check_ended,) if len(runs) > 1 else ()
    complete = finished(runs, Run.checkpoint, *ended)
    wirings = {}
    for run, name in zip(complete, distinct_names([run.folder for run in complete]), strict=True):
        words = run.label.removeprefix("learned, ")
        wirings[f"{words} ({name})" if words else name] = run.wiring
    return plots.draw_active_by_depth(wirings)


def graph(run: Run) -> Figure:
    """The wiring of a run."""
    return plots.draw_architecture(run.wiring)


def degrees(run: Run) -> Figure:
    """Edges in and out of the channels of a run.

    Raises:
        RunError: if its nodes are no channels.
    """
    if not plots.is_channel_graph(run.wiring):
        raise RunError(
            f"The nodes of {run.folder} are no channels: use a run of NeuralGraph or "
            "MobileNetV1DNW."
        )
    return plots.draw_degrees(run.wiring)


def accuracy(*runs: Run, mix: bool = False) -> Figure:
    """Test accuracy over the fan-in, of runs that differ in fan-in, wiring, learner and seed only.

    Args:
        runs: at least one.
        mix: whether they may differ in something else.

    Raises:
        RunError: if the runs differ in something else, none is finished, or one has no fan-in.
    """
    complete = finished(runs, lambda run: run.accuracy("test"))
    check_alike(different_curves(complete), mix)
    points: dict[tuple[str, int | None], list[Run]] = {}
    for run in complete:
        name, fan_in = run.connection
        if name is None:
            raise RunError(
                f"The network of {run.folder} has no fan-in: it holds no `nn.Gate`, and its config "
                "names no `wiring`."
            )
        points.setdefault((name, fan_in), []).append(run)
    for pooled in points.values():
        if found := differing([setting(run.config) for run in pooled]):
            note(f"the runs of one mean ({pooled[0].label}) differ in {in_words(found)}")
    measurements = [
        plots.Measurement(*point, run.accuracy("test"))
        for point, pooled in points.items()
        for run in pooled
    ]
    return plots.draw_accuracy(measurements, title=complete[0].data)


def efficiency(*runs: Run, mix: bool = False) -> Figure:
    """Test accuracy over parameters and multiply-adds, of runs on the same data.

    Args:
        runs: at least one.
        mix: whether the data may differ.

    Raises:
        RunError: if the data differ, or no run is finished.
    """
    complete = finished(runs, Run.checkpoint, lambda run: run.accuracy("test"))
    check_alike(different_data(complete), mix)
    if apart := costs_apart(complete, "test/acc"):
        note(apart)
    networks = [
        plots.Efficiency(
            ", ".join(filter(None, [run.family, run.connection[0], *learners(run.config)])),
            int(costs.parameters(run.wiring)),
            int(costs.multiply_adds(run.wiring)),
            run.accuracy("test"),
            setting=repr(sorted(setting(run.config).items())),
        )
        for run in complete
    ]
    return plots.draw_efficiency(networks, title=complete[0].data)


def reuse(run: Run) -> Figure:
    """How much each layer of a run uses earlier ones.

    Raises:
        RunError: if its network cannot tell.
    """
    if not isinstance(run.network, plots.ReusesFeatures):
        raise RunError(
            f"The {type(run.network).__name__} of {run.folder} has no `feature_reuse()`: use a run "
            "of a network that concatenates, such as SparseNet."
        )
    return plots.draw_feature_reuse(run.network.feature_reuse(), run.family)


def scaling() -> Figure:
    """Parameters, links and paths over depth, of networks that are not trained."""
    networks: dict[str, tuple[Callable[[int], Wired], tuple[int, ...]]] = {
        "DenseNet, k = 12": (lambda n: SparseNet(n, 12, pattern="dense"), _DEPTHS_CONCATENATED),
        "SparseNet, k = 12": (lambda n: SparseNet(n, 12), _DEPTHS_CONCATENATED),
        "ResNet": (lambda n: SparseResNet(n, "dense"), _DEPTHS_SUMMED),
        "SparseNet [+]": (SparseResNet, _DEPTHS_SUMMED),
        # With the depth as base, a block reads only the one before.
        "plain": (lambda n: SparseResNet(n, base=n), _DEPTHS_SUMMED),
    }

    def measure(make: Callable[[int], Wired], depth: int) -> plots.Scaling:
        with torch.device("meta"):  # without memory for weights
            network = make(depth)
        return plots.Scaling.of(depth, network.wiring())

    return plots.draw_scaling(
        {name: [measure(make, n) for n in depths] for name, (make, depths) in networks.items()}
    )
