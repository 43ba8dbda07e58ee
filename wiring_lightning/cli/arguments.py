"""Arguments of the subcommands that read run folders; imports neither torch nor Lightning."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn

from typing_extensions import override

from wiring_lightning.cli.messages import fail
from wiring_lightning.files import picture_path

RUN = """\
A RUN is a folder that `wiring fit` wrote, such as lightning_logs/version_0, or a folder above
it that holds no other run."""

TRUST = (
    "also build a network that is not of this package, timm or torchvision, which runs its code "
    "(by default only the networks that these list are built)"
)


def configs_first(arguments: Sequence[str]) -> list[str]:
    """The arguments of a subcommand with its configs before all options.

    jsonargparse reads them in their order, so a config would undo an option before it. What comes
    before the subcommand stays: such a config has a section for it.

    Example:
        >>> configs_first(["fit", "--data.batch_size", "8", "--config", "a.yaml", "-c=b.yaml"])
        ['fit', '--config', 'a.yaml', '-c=b.yaml', '--data.batch_size', '8']
    """
    if arguments[0].startswith("-"):
        return list(arguments)
    configs: list[str] = []
    others: list[str] = []
    follows = False  # whether the next word is the file
    for word in arguments:
        is_config = word.partition("=")[0] in ("--config", "-c")
        (configs if is_config or follows else others).append(word)
        follows = is_config and "=" not in word
    return [*others[:1], *configs, *others[1:]]


class RunsParser(ArgumentParser):
    """The parser of `wiring NAME`, with one-line error messages."""

    def __init__(self, name: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"wiring {name}",
            description=description,
            epilog=examples,
            formatter_class=RawDescriptionHelpFormatter,
        )

    @override
    def error(self, message: str) -> NoReturn:
        fail(f"{message} (see {self.prog} --help)")

    def add_runs(self, number: Literal["*", "+"]) -> None:
        """Add `runs`: any number of folders, or at least one."""
        self.add_argument("runs", metavar="RUN", nargs=number, type=Path, help="folder of a run")

    def add_trust(self) -> None:
        """Add `--trust`."""
        self.add_argument("--trust", action="store_true", help=TRUST)

    def add_mix(self, facts: str) -> None:
        """Add `--mix`; the help says in which `facts` runs may differ with it."""
        what = f"go on if the runs differ in {facts}, and say so"
        self.add_argument("--mix", action="store_true", help=what)

    def add_picture(self, default: str) -> None:
        """Add `--output`, `None` if not given, and `--overwrite`; the help shows `default`."""
        what = f"picture to write, .png, .pdf or .svg (default: {default})"
        self.add_argument("-o", "--output", metavar="FILE", type=picture_path, help=what)
        self.add_overwrite()

    def add_overwrite(self) -> None:
        """Add `--overwrite`."""
        what = "replace files that are there already"
        self.add_argument("--overwrite", action="store_true", help=what)
