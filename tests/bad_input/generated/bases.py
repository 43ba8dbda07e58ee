"""Good configs to spoil: tiny ones that train in a moment, and all those of `configs/`."""

from copy import deepcopy
from typing import Any

import yaml

from tests.cli.commands import BASE, ROOT

Config = dict[str, Any]


def _tiny(backbone: str, arguments: Config, callbacks: list[Config], **model: Any) -> Config:
    config = deepcopy(BASE)
    config["model"]["init_args"] = {
        "backbone": {"class_path": backbone, "init_args": arguments},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        **model,
    }
    config["trainer"] |= {"callbacks": callbacks}
    return config


def _callback(name: str, **arguments: Any) -> Config:
    return {"class_path": name, "init_args": arguments}


_MASK_CONNECT = _tiny(
    "ResNeXt",
    {"depth": 11, "width": 2, "cardinality": 4, "fan_in": 2, "wiring": "learned",
     "num_classes": 10, "in_channels": 1, "image_size": 8},
    [
        _callback("MaskConnect", lr=0.2, low=0.0, high=1.0, seed=1),
        _callback("PhaseSchedule", phases=[{"epochs": 1, "lr": 0.1, "gate_lr": 0.1},
                                           {"epochs": 1, "lr": 0.01, "freeze": True}]),
        _callback("WiringMonitor", every_n_epochs=1),
    ],
    label_smoothing=0.1,
    decay_norms=False,
)  # fmt: skip
_SEARCH = _tiny(
    "ConvFabric",
    {"columns": 2, "channels": 4, "scales": 2, "num_classes": 10, "in_channels": 1,
     "image_size": 8, "initial": 3.0, "architecture": "search", "doubling": "last"},
    [_callback("BudgetedSearch", budget=9000, relative_penalty=1.0, lr=0.5, warmup_epochs=0,
               cost="multiply_adds", machines=1, seed=0)],
    lr_scheduler={"class_path": "torch.optim.lr_scheduler.StepLR",
                  "init_args": {"step_size": 1, "gamma": 0.5}},
)  # fmt: skip
_GRAPH = _tiny(
    "NeuralGraph",
    {
        "dynamics": "static",
        "nodes": 20,
        "inputs": 4,
        "outputs": 6,
        "depth": 3,
        "edges": 40,
        "tolerance": 1e-3,
        "strides": [2, 1],
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
    },
    [_callback("DNW", freeze_epoch=1)],
)
_SPARSE = _tiny(
    "MobileNetV1",
    {"width": 0.1, "num_classes": 10, "in_channels": 1, "image_size": 8},
    [
        _callback("DNW", density=0.3, first_dense=True),
        _callback("ModelCheckpoint", monitor="val/acc", mode="max", save_top_k=1),
    ],
)
_SPARSENET = _tiny(
    "SparseNet",
    {"depth": 10, "growth": 4, "num_classes": 10, "in_channels": 1, "image_size": 8},
    [],
    lr_scheduler={"class_path": "WarmupCosine", "init_args": {"epochs": 3, "warmup_epochs": 1}},
)

TINY = (_MASK_CONNECT, _SEARCH, _GRAPH, _SPARSE, _SPARSENET)
TINY_TRAINER = {"fast_dev_run": True, "enable_progress_bar": False, "logger": False}


def tiny() -> list[Config]:
    """Configs of networks that train in a moment on the handwritten digits, for one step."""
    configs = deepcopy(TINY)
    for config in configs:
        config["trainer"] |= TINY_TRAINER
    return list(configs)


def shipped() -> list[Config]:
    """The configs of `configs/`, on a CPU and for one step."""
    paths = sorted((ROOT / "configs").rglob("*.yaml"))
    configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]
    for config in configs:
        config["trainer"] |= {**TINY_TRAINER, "accelerator": "cpu", "devices": 1}
    return configs
