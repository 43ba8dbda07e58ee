"""The entry point of `wiring` and of `python -m wiring_lightning`.

Kept free of heavy imports: `wiring --help` answers before torch would have been loaded.
"""

import sys
from collections.abc import Sequence

from wiring_lightning import __version__

SUBCOMMANDS = {
    "fit": "train a network and its wiring from a config, then test it and report",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "class probabilities of a checkpoint",
    "inspect": "what a network's wiring costs, as a table, JSON or a picture",
    "figure": "a figure of the papers from the folders of your runs",
    "pareto": "the best networks at every cost, from the folders of your runs",
}

_HELP = """usage: wiring [-h] [--version] SUBCOMMAND ...

Networks that learn their own wiring while their weights train.

subcommands:
{subcommands}

start here:
  wiring fit --config configs/quickstart.yaml     train on handwritten digits, no download
  wiring fit --help                               all options
  wiring fit --config FILE --print_config         the whole config that would run
  wiring inspect --config FILE --ckpt_path FILE   parameters, multiply-adds, live branches
  wiring figure connectivity FOLDER               fixed against learned wiring of a run
  wiring pareto FOLDER FOLDER ...                 accuracy over cost, selected by validation

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
    if given[0] == "figure":
        from wiring_lightning.figures import parse

        request = parse(given[1:])  # before torch is loaded
        from wiring_lightning.cli import run_figure

        run_figure(request)
        return
    if given[0] == "pareto":
        from wiring_lightning import pareto

        front = pareto.parse(given[1:])
        from wiring_lightning.cli import run_pareto

        run_pareto(front)
        return
    if given[0] not in SUBCOMMANDS and not given[0].startswith("-"):
        choices = ", ".join(map(repr, SUBCOMMANDS))
        sys.stderr.write(
            f"wiring: error: there is no subcommand {given[0]!r} (choose from {choices}) "
            "(see wiring --help)\n"
        )
        raise SystemExit(2)
    from wiring_lightning.cli import run

    run(given)


if __name__ == "__main__":
    main()
