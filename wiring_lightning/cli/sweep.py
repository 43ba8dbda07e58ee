"""`wiring sweep`: many runs of `wiring fit`, over seeds and settings, here or on a cluster."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from wiring_lightning._checks import counted
from wiring_lightning.cli.arguments import RunsParser
from wiring_lightning.cli.messages import fail

_DESCRIPTION = """\
Run `wiring fit` for every seed and every combination of settings, several at a time, on Ray Tune.

Each run is a process of its own and leaves an ordinary run folder, which `wiring table` reads. The
seeds are those of seed_everything, the data and the callbacks. Other options are handed to
`wiring fit`. A sweep that was killed goes on if the same command is given again: runs that are done
stay, interrupted ones continue from their last checkpoint, and failed ones are tried again.

On a cluster, give the same command --address, and a folder that all machines share.
"""
_EXAMPLES = """\
examples:
  wiring sweep --config configs/digits_resnext.yaml --seeds 5 --set model.backbone.fan_in=[1,2,4]
  wiring sweep --config FILE --seeds 3 --gpus 1 --address auto --out /shared/sweep
  wiring table sweep/* --by model.backbone.fan_in
"""


def run(arguments: Sequence[str]) -> None:
    """Plan the runs, and do those that are not done; exit code 1 if one is not done then.

    Raises:
        SweepError: if the runs cannot be planned.
        ModuleNotFoundError: without Ray Tune.
    """
    given = parse(arguments)
    from wiring_lightning.cli.sweep_lock import only_sweep_in
    from wiring_lightning.cli.sweep_plan import plan, settings

    try:
        from wiring_lightning.cli.sweep_run import run_all
    except ModuleNotFoundError as error:
        if error.name != "ray" and not str(error.name).startswith("ray."):
            raise
        fail("wiring sweep needs Ray Tune: pip install 'wiring_lightning[sweep]'")

    chosen, root = settings(given.set), given.out.resolve()
    with only_sweep_in(root):
        runs = plan(given.fit, chosen, given.seeds, root)
        todo = [run for run in runs if run.ended is None]
        ended = len(runs) - len(todo)
        print(f"runs in {root}: {len(runs)}, done before: {ended}", flush=True)
        failed = {}
        if todo:
            failed = run_all(
                todo,
                finished=ended,
                address=given.address,
                cpus=given.cpus,
                gpus=given.gpus,
                metric=given.metric,
                grace=given.stop_below_median,
            )
    left = [run for run in todo if run.ended is None and run.name not in failed]
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again:")
        for run in todo:
            if run.name in failed:
                print(f"  {run.name}: {failed[run.name]}\n    log: {run.log}")
    if left:
        ended = len(runs) - len(failed) - len(left)
        print(f"interrupted, {ended} of {len(runs)} runs ended; the same command goes on")
    if failed or left:
        raise SystemExit(1)
    print(f"all {counted(len(runs), 'run')} ended: wiring table {given.out}/*")


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the arguments; help and bad arguments end the process.

    Example:
        >>> given = parse(["--config", "a.yaml", "--seeds", "3", "--trainer.max_epochs=2"])
        >>> given.seeds, given.fit
        (3, ['--config', 'a.yaml', '--trainer.max_epochs=2'])
    """
    parser = RunsParser("sweep", _DESCRIPTION, _EXAMPLES)
    what = "config of `wiring fit`; several are read in order"
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help=what)
    what = "number of seeds, 0, 1, ... (default: 1)"
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=what)
    what = "values of a key, such as model.backbone.fan_in=[1,4]; several are combined"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=[...]", help=what)
    what = "folder of the sweep, with a run folder for every run (default: sweep)"
    parser.add_argument("--out", type=Path, default=Path("sweep"), metavar="FOLDER", help=what)
    what = "address of a Ray cluster, or auto for the one of this machine (default: none)"
    parser.add_argument("--address", metavar="ADDRESS", help=what)
    what = "cores of a run (default: 1)"
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help=what)
    what = "GPUs of a run; with 0, the default, a run sees none"
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help=what)
    what = "the number that is shown, and that the median is of (default: val/acc)"
    parser.add_argument("--metric", default="val/acc", metavar="NAME", help=what)
    what = "stop a run if its best is below the median of the others' means after N validations"
    parser.add_argument("--stop_below_median", type=int, metavar="N", help=what)
    given, others = parser.parse_known_args(arguments)
    if stray := [one for one in others if not one.startswith("--")]:
        parser.error(f"write an option of `wiring fit` as --KEY=VALUE, got {stray[0]}")
    for name in ("seeds", "stop_below_median"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    if not given.cpus > 0 or given.gpus < 0:
        parser.error("--cpus must be above 0, and --gpus 0 or more")
    given.fit = [word for file in given.config for word in ("--config", file)] + others
    return given
