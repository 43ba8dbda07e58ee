"""What `wiring fit --help` says first, and the order of what follows."""

from collections.abc import Sequence
from typing import Any

_FIT = """\
Train a network and its wiring, then test it and report. A config says everything; any key of it can
be given on the command line, too, and wins:

  wiring fit --config configs/quickstart.yaml --data.batch_size 64

what is changed most:
  --config FILE                  the config; several are merged, the last one wins
  --print_config                 print the whole config that would run, and stop
  --trainer.max_epochs N         length; the phases of PhaseSchedule follow in proportion
  --model.backbone NAME          another network, such as ResNeXt or DenseNet
  --model.backbone.KEY VALUE     its arguments, such as fan_in, depth and wiring
  --model.optimizer.lr RATE      the rate of the weights, where no phase sets it
  --data NAME                    other data, such as Digits or CIFAR10
  --data.KEY VALUE               its arguments, such as root, download, batch_size and val_size
  --trainer.callbacks+=NAME      one more callback, such as WiringMonitor
  --trainer.callbacks.KEY VALUE  an argument of the last callback
  --trainer.logger NAME          such as CSVLogger or WandbLogger; TensorBoardLogger by default
  --trainer.accelerator cpu      also gpu; --trainer.devices 2 for two of them
  --trainer.fast_dev_run true    one batch of everything, to see whether it works
  --seed_everything N            another seed
  --ckpt_path FILE               go on from a checkpoint

what a class takes:
  wiring fit --model.help=ClassificationTask
  wiring fit --model=ClassificationTask --model.backbone.help=ResNeXt
  wiring fit --data.help=CIFAR10
  wiring fit --trainer.callbacks.help=MaskConnect
"""
_MEASURE = """\
{what} Give it, and the config of the run:

  wiring {name} --config RUN/config.yaml --ckpt_path RUN/checkpoints/FILE.ckpt

what is changed most:
  --ckpt_path FILE               the checkpoint
  --data.KEY VALUE               arguments of the data, such as root and batch_size
  --trainer.accelerator cpu      also gpu
  --trainer.logger false         write no event file
"""
_LEADS = {
    "fit": _FIT,
    "validate": _MEASURE.format(name="validate", what="Measure a checkpoint on validation images."),
    "test": _MEASURE.format(name="test", what="Measure a checkpoint on test images."),
    "predict": _MEASURE.format(
        name="predict", what="Write the class probabilities of a checkpoint."
    ),
}
# Groups of options by the beginning of their names, in order: the trainer's are the longest list.
_TITLES = {
    "model": "network and its training",
    "data": "data",
    "trainer": "Lightning's Trainer",
}
# The first option of the group of a subcommand's own options, whichever comes first.
_FIRST_OWN = ("ckpt_path", "return_predictions", "verbose")


def lead(subcommand: str, text: str) -> str:
    """The help of a subcommand with what matters before the list of all options.

    Args:
        subcommand: such as `fit`.
        text: the help that lists all options, one for one.

    Example:
        >>> lead("inspect", "usage: wiring inspect [-h]")
        'usage: wiring inspect [-h]'
    """
    if subcommand not in _LEADS:
        return text
    _, _, everything = text.partition("\noptions:\n")
    usage = f"usage: wiring [options] {subcommand} --config FILE [--KEY VALUE ...]"
    return f"{usage}\n\n{_LEADS[subcommand]}\nall options:\n{everything}"


def in_order(groups: Sequence[Any]) -> Any:
    """Groups of options with titles for people, those of the trainer last.

    Args:
        groups: those of a parser of Lightning's.
    """
    return sorted(map(_with_title, groups), key=_place)


def _with_title(group: Any) -> Any:
    kind = _kind(group)
    if kind in _TITLES:
        group.title = _TITLES[kind]
    elif kind in _FIRST_OWN:
        group.title = "checkpoint and output"
    return group


def _place(group: Any) -> int:
    order = [*_TITLES]
    kind = _kind(group)
    return order.index(kind) if kind in order else -1


def _kind(group: Any) -> str:
    """The beginning of the names of a group's options, such as `trainer`."""
    actions: Sequence[Any] = group._group_actions
    return str(actions[0].dest).partition(".")[0] if actions else ""
