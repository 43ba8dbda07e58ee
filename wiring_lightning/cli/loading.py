"""Loading a trained task from the folder of a run, or from one of its checkpoints."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule

from wiring_lightning import tasks
from wiring_lightning.checkpoints import (
    CheckpointError,
    note_loaded,
    put_weights,
    read_weights,
    weights_for,
)
from wiring_lightning.cli.config_parts import CONFIG
from wiring_lightning.cli.denser_file import say_if_denser
from wiring_lightning.cli.run_checkpoints import checkpoints_of, configured_near
from wiring_lightning.cli.run_names import last_shared
from wiring_lightning.cli.runs import Run, RunError, find_run
from wiring_lightning.cli.trained_config import say_if_config_is_gone
from wiring_lightning.nn.as_usual import as_usual
from wiring_lightning.nn.checks import check_word
from wiring_lightning.tasks._saved import saved_description, task_named

Which = Literal["last", "best"]


@dataclass(frozen=True)
class Trained:
    """A trained task, the checkpoint of its weights, and the run if its config is known."""

    task: LightningModule
    checkpoint: Path
    run: Run | None


def load(path: str | Path, which: Which = "last", trust: bool = False) -> LightningModule:
    """Load a trained task: the network with its weights and its wiring, in evaluation mode.

    A folder that `wiring fit` wrote has a config, and a checkpoint of this package says what it is
    of. Nothing but the task and its backbone is built, and only classes of this package. The task
    has the default optimizer: it is for using and testing the network; `wiring fit --ckpt_path`
    goes on with the training. The data modules of this package show it images that are normalised
    as in its training. A warning says if the file is from before a learner had removed all
    the weights that it was to remove.

    Args:
        path: the folder of a run, such as `lightning_logs/version_0`, or a checkpoint.
        which: of a folder the checkpoint after the most training steps, or the best one by what its
            `ModelCheckpoint` monitors. If several have a best one, give the file that you want.
        trust: whether a network that is not of this package may be imported and built.

    Raises:
        RunError: if a folder is no run, or has no such checkpoint.
        CheckpointError: if a checkpoint cannot be read or is of another network, or if nothing says
            which network it is of.
        UntrustedError: if a class is not of this package, and not trusted.
        ValueError: if `which` is another word.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning.pytorch import Trainer
        >>> from wiring_lightning.backbones import ResNeXt
        >>> task = tasks.ClassificationTask(ResNeXt(depth=11, fan_in=1))
        >>> trainer = Trainer(logger=False, barebones=True)
        >>> trainer.strategy.connect(task)
        >>> with TemporaryDirectory() as folder:
        ...     trainer.save_checkpoint(f"{folder}/last.ckpt")
        ...     type(load(f"{folder}/last.ckpt").backbone).__name__
        'ResNeXt'
    """
    return find_trained(path, which, trust).task


@as_usual()
def find_trained(path: str | Path, which: Which = "last", trust: bool = False) -> Trained:
    """A trained task, with the checkpoint that it is from; arguments and errors as of `load`."""
    check_word("which", which, Which)
    path = Path(path)
    if path.is_dir():
        run = find_run(path, trust)
        checkpoint = checkpoint_of(run, which)
        content = read_weights(checkpoint)
        say_if_denser(checkpoint, content)
        return _as_of_its_fit(run, checkpoint, content)
    content = _read(path)
    say_if_denser(path, content)
    described = saved_description(content)
    if described is not None and task_named(described) in tasks.__all__:
        task = getattr(tasks, described["task"]).load_from_checkpoint(path)
        run_of = None
        with suppress(RunError):  # of a config of something else, which is not needed
            run_of = _run_of(path, trust)
        return Trained(task.eval(), path, run_of)
    run_of = _run_of(path, trust)
    if run_of is None and described is not None:
        raise CheckpointError(
            f"The checkpoint {path} is of a {task_named(described)}, which is no task of this "
            "package: use load_from_checkpoint(path) of that class."
        )
    if run_of is None:
        raise CheckpointError(
            f"The checkpoint {path} does not say which network it is of, and there is no {CONFIG} "
            "of its run in its folder or the one above: build the task yourself, and use "
            "load_from_checkpoint(path, backbone=...)."
        )
    return _as_of_its_fit(run_of, path, content)


def _run_of(path: Path, trust: bool) -> Run | None:
    """The run whose config is near a checkpoint.

    Raises:
        RunError: if there is a config that is none of a run.
    """
    near = configured_near(path)
    return find_run(near[0], trust).as_of(path) if near else None


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; a file of another kind is told what reads it."""
    try:
        return read_weights(path)
    except CheckpointError as error:
        from wiring_lightning.export import SUFFIXES  # only here: its imports take a while

        told = "wl.load_exported" in str(error)
        if path.is_file() and path.suffix in SUFFIXES and not told:
            raise CheckpointError(
                f"{path} is an exported network and no checkpoint: read it with wl.load_exported."
            ) from None
        raise


def checkpoint_of(run: Run, which: Which) -> Path:
    """The last or the best checkpoint of a run.

    Raises:
        RunError: if there is none, nobody has said what is best, or several have.
        CheckpointError: if one cannot be read.
    """
    last = run.checkpoint()
    if which == "last":
        return last
    callbacks = read_weights(last).get("callbacks")
    if not isinstance(callbacks, Mapping):
        raise RunError(
            f"{last} holds weights only, and does not say which checkpoint is the best: give the "
            "file that you want, or train with save_weights_only=False."
        )
    there = sorted(checkpoints_of(run.folder))
    best = [state for state in callbacks.values() if _says_best(state)]
    monitor_of = {
        path: state["monitor"]
        for state in best
        for path in _places(Path(state["best_model_path"]), there)
    }
    paths = sorted(monitor_of)
    if not paths:
        raise RunError(f"The run {run.folder} has {_why_none_is_best(best)}")
    if len(paths) > 1:
        found = ", ".join(f"{relpath(path, run.folder)} by {monitor_of[path]}" for path in paths)
        raise RunError(
            f"The run {run.folder} has {len(paths)} best checkpoints ({found}): give one of these "
            "files instead of the folder."
        )
    return paths[0]


def _places(saved: Path, there: Sequence[Path]) -> list[Path]:
    """Those of the files that a path may mean, although the folder of its run may have moved.

    Files in other folders of the run may have the same name: then more of the last parts agree.
    """
    shared = {path: last_shared([saved.parts, path.absolute().parts]) for path in there}
    most = max(shared.values(), default=0)
    return [path for path in there if 0 < most == shared[path]]


def _why_none_is_best(states: Sequence[Mapping[str, Any]]) -> str:
    """The rest of a sentence: what became of the best checkpoints, and what to do."""
    if not states:
        return (
            "no best checkpoint: train with a ModelCheckpoint that monitors a number, such as "
            "val/acc, or take the last one."
        )
    lost = [state for state in states if state["best_model_path"]]
    state = (lost or states)[0]
    if not lost:
        return (
            "no best checkpoint yet: its ModelCheckpoint has compared none by "
            f"{state['monitor']}. Take the last one."
        )
    return (
        f"lost its best checkpoint by {state['monitor']}: {Path(state['best_model_path']).name} is "
        "not there, as if it was renamed or removed. Give the file that you want, or take the last "
        "one."
    )


def _says_best(state: Any) -> bool:
    """Whether a callback's state is that of a `ModelCheckpoint` which compares checkpoints."""
    return (
        isinstance(state, Mapping)
        and isinstance(state.get("best_model_path"), str)
        and state.get("monitor") is not None
    )


def _as_of_its_fit(run: Run, path: Path, content: Mapping[str, Any]) -> Trained:
    """The task of the fit that wrote a checkpoint, with its weights, in evaluation mode."""
    run = run.as_of(path)
    say_if_config_is_gone(run.folder, path, content)
    task = run.build()
    put_weights(task, weights_for(task, content, path), path)
    note_loaded(task, path)
    return Trained(task.eval(), path, run)
