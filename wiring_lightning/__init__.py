"""wiring_lightning: networks that learn their own wiring while their weights train.

Which edges of a network are there can be learned by gradients (MaskConnect, GateConnect), found as
the largest weights (Discovering Neural Wirings), fixed by a rule (SparseNet) or searched under a
budget (Budgeted Super Networks). Start with `callbacks.MaskConnect` and `backbones.ResNeXt`, or on
the command line with `wiring --help`.

Everything is imported when it is first used, such as torch:

Example:
    >>> import wiring_lightning as wl
    >>> network = wl.backbones.ResNeXt(depth=20, width=4, num_classes=100, wiring="full")
    >>> int(wl.costs.parameters(network.wiring()))
    283572
"""

from typing import TYPE_CHECKING

from wiring_lightning._names import follow_moves, lazy_names

__version__ = "0.1.0"  # the only place; pyproject.toml reads it from here

__all__ = [
    "Wired",
    "Wiring",
    "WiringBuilder",
    "__version__",
    "backbones",
    "callbacks",
    "checkpoints",
    "cli",
    "costs",
    "data",
    "export",
    "files",
    "find_wired",
    "functional",
    "load",
    "load_exported",
    "make_wiring",
    "nn",
    "optim",
    "plots",
    "tasks",
    "wiring",
]

if TYPE_CHECKING:
    from wiring_lightning import (
        backbones,
        callbacks,
        checkpoints,
        cli,
        costs,
        data,
        export,
        files,
        functional,
        nn,
        optim,
        plots,
        tasks,
        wiring,
    )
    from wiring_lightning.cli.loading import load
    from wiring_lightning.export import load_exported
    from wiring_lightning.wiring import Wired, Wiring, WiringBuilder, find_wired, make_wiring
else:
    _HOMES = dict.fromkeys(
        ("Wired", "Wiring", "WiringBuilder", "find_wired", "make_wiring"), "wiring_lightning.wiring"
    )
    _HOMES["load"] = "wiring_lightning.cli.loading"
    _HOMES["load_exported"] = "wiring_lightning.export"
    __getattr__, __dir__ = lazy_names(__name__, __all__, _HOMES)

follow_moves()
