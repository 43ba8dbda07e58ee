"""The `wiring` command: a file for each subcommand, and shared files.

Importing this does not import torch or Lightning, so that `wiring --help` is fast.
"""

from typing import TYPE_CHECKING

from wiring_lightning._names import lazy_names
from wiring_lightning.cli.commands import main, run

__all__ = ["WiringCLI", "WiringTrainer", "main", "run"]

if TYPE_CHECKING:
    from wiring_lightning.cli.app import WiringCLI
    from wiring_lightning.cli.inspect import WiringTrainer
else:
    _HOMES = {
        "WiringCLI": "wiring_lightning.cli.app",
        "WiringTrainer": "wiring_lightning.cli.inspect",
    }
    __getattr__, __dir__ = lazy_names(__name__, __all__, _HOMES)
