"""Writing a found architecture as a new config and checkpoint."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.callbacks import BudgetedSearch, PhaseSchedule, WarmStart
from wiring_lightning.cli.runs import class_name, classes_in

_FABRICS = (ConvFabric, ResNetFabric)
_KEPT = ("seed_everything", "trainer", "model", "data")
_STEERING = ("gate_lr", "freeze")  # keys of a phase that need a gate


def write_found(module: LightningModule, config: Mapping[str, Any], folder: Path) -> Path:
    """Write a found architecture as `config.yaml` and `network.ckpt`; return the config's path.

    The new config is that of the search with a fixed architecture and without `BudgetedSearch`. Its
    training starts from the weights in `network.ckpt`.

    Args:
        module: a module with a fabric, after the search.
        config: the config that it was built from, as plain values.
        folder: of the two files.

    Raises:
        MisconfigurationException: if the module has no fabric.
        ValueError: if the architecture does not connect input and output.
    """
    name, fabric = _fabric_of(module)
    if fabric is None:
        raise MisconfigurationException(
            f"{type(module).__name__} holds no fabric: an architecture can be written for "
            f"{' and '.join(kind.__name__ for kind in _FABRICS)}."
        )
    compact = {f"{name}{key}": value for key, value in fabric.compact().state_dict().items()}
    others = {k: v for k, v in module.state_dict().items() if not k.startswith(name)}
    config = found_config(config, fabric.architecture_names, folder / "network.ckpt")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "state_dict": others | compact,
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(checkpoint, folder / "network.ckpt")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def found_config(
    config: Mapping[str, Any], architecture: list[str], weights: Path
) -> dict[str, Any]:
    """The config of a search with a fixed architecture.

    Example:
        >>> search = {"model": {"class_path": "ConvFabric", "init_args": {"columns": 2}},
        ...           "trainer": {"callbacks": [{"class_path": "BudgetedSearch"}]}}
        >>> found = found_config(search, ["column1.scale2.within"], Path("network.ckpt"))
        >>> found["model"]["init_args"]["architecture"], found["trainer"]["callbacks"]
        (['column1.scale2.within'], [{'class_path': 'wiring_lightning.callbacks.WarmStart', \
'init_args': {'weights': 'network.ckpt'}}])
    """
    found = {key: deepcopy(config[key]) for key in _KEPT if key in config}
    for part in classes_in(found.get("model")):
        if class_name(part) in [kind.__name__ for kind in _FABRICS]:
            part.setdefault("init_args", {})["architecture"] = architecture
    for part in classes_in(found.get("trainer")):
        if class_name(part) == PhaseSchedule.__name__:
            for phase in part.get("init_args", {}).get("phases", []):
                for key in _STEERING:
                    phase.pop(key, None)
    trainer = found.setdefault("trainer", {})
    given = trainer.get("callbacks") or []
    removed = (BudgetedSearch.__name__, WarmStart.__name__)
    start = {
        "class_path": f"wiring_lightning.callbacks.{WarmStart.__name__}",
        "init_args": {"weights": str(weights)},
    }
    callbacks = given if isinstance(given, list) else [given]
    trainer["callbacks"] = [part for part in callbacks if class_name(part) not in removed] + [start]
    return found


def _fabric_of(module: LightningModule) -> tuple[str, ConvFabric | ResNetFabric | None]:
    """The name of the fabric, with a dot, and the fabric."""
    for name, child in module.named_modules():
        if isinstance(child, _FABRICS):
            return f"{name}.", child
    return "", None
