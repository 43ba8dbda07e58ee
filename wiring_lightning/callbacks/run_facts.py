"""The settings of a run, as plain values for a table of hyper-parameters."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from wiring_lightning import costs
from wiring_lightning.callbacks.wiring_callback import find_learners
from wiring_lightning.nn import find_gates
from wiring_lightning.wiring import Wired

_OPTIMIZER_KEYS = ("lr", "momentum", "weight_decay", "nesterov")


def run_facts(
    trainer: Trainer, pl_module: LightningModule, network: Wired | None
) -> dict[str, bool | int | float | str]:
    """Collect the settings of a run with any model.

    These are the saved hyper-parameters of module and data, class and size of the network, the
    fan-in of its gates, the arguments of the learners and optimizers, the batch size, the number
    of epochs and the seed.

    Args:
        trainer: the trainer of a fit.
        pl_module: the module that it trains.
        network: the network inside the module that has a wiring, if there is one.

    Returns:
        Plain values by name; others (modules, functions, `None`) are left out.
    """
    data = getattr(trainer, "datamodule", None)
    facts: dict[str, Any] = {**pl_module.hparams, **getattr(data, "hparams", {})}
    if network is not None:
        wiring = network.wiring()
        facts["backbone"] = type(network).__name__
        facts["nodes"] = len(wiring.nodes)
        facts["candidate_edges"] = len(wiring.source)
        facts["parameters"] = int(costs.parameters(wiring, live=False))
    fan_ins = sorted({gate.fan_in for gate in find_gates(pl_module).values()})
    if fan_ins:
        facts["fan_in"] = fan_ins[0] if len(fan_ins) == 1 else ", ".join(map(str, fan_ins))
    for number, learner in enumerate(find_learners(trainer)):
        own = {key: value for key, value in vars(learner).items() if key[0] != "_"}
        facts[f"learner{number or ''}"] = {"name": type(learner).__name__, **own}
    for number, optimizer in enumerate(trainer.optimizers):
        # The defaults are the configured values; a schedule may have changed the groups.
        own = {key: optimizer.defaults.get(key) for key in _OPTIMIZER_KEYS}
        facts[f"optimizer{number or ''}"] = {"name": type(optimizer).__name__, **own}
    facts["batch_size"] = getattr(data, "batch_size", None)
    facts["max_epochs"] = trainer.max_epochs
    seed = os.environ.get("PL_GLOBAL_SEED")  # set by Lightning's `seed_everything`
    facts["seed"] = int(seed) if seed else None
    return _flat(facts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Keep plain values, under names such as `optimizer/lr`."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}/")
        elif isinstance(value, torch.Tensor) and value.numel() == 1:
            flat[name] = value.item()
        elif isinstance(value, bool | int | float | str):
            flat[name] = value
    return flat
