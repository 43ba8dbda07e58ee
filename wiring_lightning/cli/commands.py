"""The subcommands of `wiring`, and the entry point of the command line.

To add a subcommand, add a file of its name with a function `run(arguments)`, and a line to `FILES`.
Neither this file nor the new one should import torch before its arguments are read, so that
`--help` is fast.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from wiring_lightning import __version__
from wiring_lightning.cli.messages import fail, one_sentence
from wiring_lightning.cli.quiet import quiet

# Subcommands in `app.py`.
LIGHTNING = {
    "fit": "train a network and its wiring from a config, then test it and report",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "class probabilities of a checkpoint",
    "inspect": "what a network's wiring costs, as a table, JSON or a picture",
}
# Subcommands in a file of the same name.
FILES = {
    "export": "a trained network as .onnx, .pt2 or .safetensors, compared by running it",
    "figure": "a figure of the papers from the folders of your runs",
    "pareto": "the best networks at every cost, from the folders of your runs",
    "sweep": "many runs over seeds and settings, on one machine or a cluster (Ray Tune)",
    "table": "means over seeds, differences and costs, from the folders of your runs",
}
SUBCOMMANDS = {**LIGHTNING, **FILES}
_RUN = LIGHTNING.keys() - {"inspect"}  # a config before these may have a section for each

_HELP = """usage: wiring [-h] [--version] SUBCOMMAND ...

Networks that learn their own wiring while their weights train.

subcommands:
{subcommands}

start here:
  wiring fit --config configs/quickstart.yaml     train on handwritten digits, no download
  wiring fit --help                               all options
  wiring fit --config FILE --print_config         the whole config that would run
  wiring inspect --config FILE --ckpt_path FILE   parameters, multiply-adds, live branches
  wiring export FOLDER --output net.onnx          a trained network that runs by itself
  wiring figure connectivity FOLDER               fixed against learned wiring of a run
  wiring pareto FOLDER FOLDER ...                 accuracy over cost, selected by validation
  wiring sweep --config FILE --seeds 5            many runs, which go on if they are killed
  wiring table FOLDER FOLDER ...                  methods over seeds, with paired differences

Every key of a config can be changed on the command line: --data.batch_size 64
Set WIRING_DEBUG=1 to see the traceback behind an error message.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to those of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, SUBCOMMANDS)) + 2
        rows = (f"  {name:<{width}}{text}" for name, text in SUBCOMMANDS.items())
        sys.stdout.write(_HELP.format(subcommands="\n".join(rows)))
        return
    if given[0] == "--version":
        sys.stdout.write(f"wiring_lightning {__version__}\n")
        return
    if given[0].startswith("-"):
        _check_begin(given)
    if given[0] not in SUBCOMMANDS and not given[0].startswith("-"):
        choices = ", ".join(map(repr, SUBCOMMANDS))
        fail(f"there is no subcommand {given[0]!r} (choose from {choices}) (see wiring --help)")
    run(given)


def _check_begin(arguments: Sequence[str]) -> None:
    """Check what comes before the subcommand: only configs with a section for each subcommand.

    `inspect` comes first in any case: it guards against the classes that a config of a stranger
    names, and Lightning builds those of a section without that guard.
    """
    name = next((word for word in arguments if word in SUBCOMMANDS), None)
    before = arguments if name is None else arguments[: arguments.index(name)]
    words = [part for word in before for part in word.split("=", 1)]
    files = [word for word in words if word not in ("--config", "-c")]
    if name not in (None, *_RUN) or not all(map(_has_sections, files)):
        fail(f"the subcommand comes first: wiring {name or 'fit'} --config FILE")


def _has_sections(path: str) -> bool:
    """Whether a config is one that Lightning takes before the subcommand, such as `fit: {...}`."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and config.keys() <= _RUN


def run(arguments: Sequence[str]) -> None:
    """Run a subcommand; an error that the user can solve is one sentence and exit code 2."""
    name, *rest = arguments
    with one_sentence(), quiet():
        if name in FILES:
            import_module(f"wiring_lightning.cli.{name}").run(rest)
        else:
            import_module("wiring_lightning.cli.app").run(arguments)
