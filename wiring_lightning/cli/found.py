"""A found architecture as a config and a checkpoint of its own."""

from collections.abc import Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule

from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.callbacks import BudgetedSearch, PhaseSchedule, WarmStart
from wiring_lightning.cli.config_parts import CONFIG, callbacks_in, class_name, classes_in
from wiring_lightning.files import write_file

_FABRICS = (ConvFabric, ResNetFabric)
_KEPT = ("seed_everything", "trainer", "model", "data")
_STEERING = ("gate_lr", "freeze")  # of a phase: there is nothing to learn or to freeze any more


def write_found(module: LightningModule, config: Mapping[str, Any], folder: Path) -> Path:
    """Write the architecture that a search has found as `config.yaml` and `network.ckpt`.

    The config describes the network without what the architecture leaves out, and has no search
    any more; its training starts with the weights of `network.ckpt`. Everything else stays.

    Args:
        module: a module with a fabric, after the search.
        config: the config that it was built from, as plain values.
        folder: where the two files go.

    Returns:
        The path of the new config.

    Raises:
        MisconfigurationException: if the module or the config has no fabric.
        ValueError: if the architecture does not connect input and output.
    """
    name, fabric = _fabric_of(module)
    if fabric is None:
        raise MisconfigurationException(
            f"{type(module).__name__} holds no fabric: an architecture can be written for "
            f"{' and '.join(kind.__name__ for kind in _FABRICS)}."
        )
    path, weights = found_files(folder)
    config = found_config(config, fabric.architecture_names, weights)
    module.set_submodule(name, fabric.compact())
    state = module.state_dict()
    module.set_submodule(name, fabric)
    checkpoint = {
        "state_dict": state,
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    content = BytesIO()
    torch.save(checkpoint, content)
    write_file(weights, content.getbuffer())
    write_file(path, yaml.safe_dump(config, sort_keys=False).encode())
    return path


def found_files(folder: Path) -> tuple[Path, Path]:
    """The config and the checkpoint that `write_found` writes into a folder."""
    return folder / CONFIG, folder / "network.ckpt"


def found_config(
    config: Mapping[str, Any], architecture: list[str], weights: Path
) -> dict[str, Any]:
    """The config of a search as that of an architecture.

    Args:
        config: of the search, as plain values; it is not changed.
        architecture: names of the edges to keep.
        weights: the checkpoint whose weights training starts with.

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
    removed = (BudgetedSearch.__name__, WarmStart.__name__)
    start = {
        "class_path": f"wiring_lightning.callbacks.{WarmStart.__name__}",
        "init_args": {"weights": str(weights)},
    }
    kept = [part for part in callbacks_in(found) if class_name(part) not in removed]
    found.setdefault("trainer", {})["callbacks"] = [*kept, start]
    return found


def _fabric_of(module: LightningModule) -> tuple[str, ConvFabric | ResNetFabric | None]:
    """Its name, and the fabric."""
    for name, child in module.named_modules():
        if isinstance(child, _FABRICS):
            return name, child
    return "", None
