"""Whether a checkpoint fits a module: the same network, and values that it can have."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from wiring_lightning.checkpoints.naming import find_weights, named_as_in
from wiring_lightning.checkpoints.reading import CheckpointError, damaged
from wiring_lightning.nn import Gate
from wiring_lightning.nn.described import find_differences, find_flaws, with_present_names

# What a checkpoint needs for training to continue, and of which kind it is.
_FOR_TRAINING = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}
# What optimizers keep for every weight.
_LIKE_WEIGHTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")
_VERSION = "pytorch-lightning_version"  # a key of every checkpoint of a trainer
_SHOWN = 3  # differences in one sentence
_ROUNDING = 0.02  # of scores in bfloat16


def check_checkpoint(
    module: LightningModule,
    content: Mapping[str, Any],
    path: str | Path,
    resume: bool,
    trainer: Trainer | None = None,
) -> None:
    """Say what a trainer would stumble over when it loads a checkpoint into a module.

    Args:
        module: the module that will be trained or tested.
        content: what `load_checkpoint` read.
        path: where it was read from.
        resume: whether training will continue, which needs more than the weights.
        trainer: the trainer that will load it; its counters are compared with the saved ones.

    Raises:
        CheckpointError: if the trainer could not load it, or it is that of another network.
    """
    if not is_from_trainer(content):
        raise CheckpointError(
            f"The file {path} is no checkpoint of a Lightning trainer: use one that `wiring fit` "
            "has saved, or begin a fit with its weights by callbacks.WarmStart."
        )
    if resume and "optimizer_states" not in content:
        raise CheckpointError(
            f"The checkpoint {path} holds weights only, and training cannot continue from it: use "
            "one that was saved with save_weights_only=False."
        )
    for name, kind in _FOR_TRAINING.items():
        if name in content and not isinstance(content[name], kind):
            raise damaged(path, f"its {name} are of type {type(content[name]).__name__}")
    if trainer is not None:
        for name, saved in content.get("loops", {}).items():
            loop = getattr(trainer, name, None)
            if loop is not None and not _alike(loop.state_dict(), saved):
                raise damaged(path, f"its {name} has counters that are no numbers")
    if not is_overridden("configure_model", module):  # otherwise the network is built later
        check_weights(module, content, path)


def is_from_trainer(content: Mapping[str, Any]) -> bool:
    """Whether a file holds a checkpoint of Lightning's, and not other people's weights."""
    return {"state_dict", _VERSION} <= content.keys()


def check_weights(
    module: nn.Module, content: Mapping[str, Any], path: str | Path, strict: bool | None = None
) -> None:
    """Refuse weights of another network, and values that no network can have.

    Args:
        module: the module that they are for.
        content: a Lightning checkpoint, or a bare `state_dict`.
        path: where it was read from, for the message.
        strict: whether the names of all weights must agree, and not only one; by default what the
            module's `strict_loading` says.

    Raises:
        CheckpointError: with one sentence that names what differs or what is wrong.

    Example:
        >>> check_weights(nn.Linear(2, 1), nn.Linear(3, 1).state_dict(), "old.ckpt")
        Traceback (most recent call last):
        wiring_lightning.checkpoints.reading.CheckpointError: The checkpoint old.ckpt belongs to ...
    """
    if strict is None:
        strict = is_strict(module)
    found = find_weights(content, path)
    weights, own = with_present_names(found, module), module.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor) and (name not in own or _is_weight(name, own[name])):
            raise damaged(path, f"{name} is of type {type(value).__name__}")
    differences = list(_differing_shapes(own, weights, strict))[:1]
    if strict:
        differences += find_differences(module, weights)
    elif own and not own.keys() & weights.keys():
        differences.append("not one name of a weight is the same")
    if differences:
        _refuse_other_names(module, found, path, strict)
        raise _of_another_network(path, differences, content)
    for name, value in weights.items():
        if _is_weight(name, own.get(name)) and _kind(value) != _kind(own[name]):
            raise damaged(path, f"{name} is of type {value.dtype} and not {own[name].dtype}")
    for name in infinite_values(weights, but=infinite_values(own)):
        raise damaged(path, f"{name} holds values that are infinite or not a number")
    if flaws := list(find_flaws(module, weights)):
        raise _of_another_network(path, flaws[:1], content)
    for flaw in _impossible_scores(module, weights, content.get("callbacks")):
        raise damaged(path, flaw)


def is_strict(module: nn.Module) -> bool:
    """Whether the names of all weights must agree when a module loads some."""
    return bool(getattr(module, "strict_loading", True))


def infinite_values(state: Mapping[str, Any], but: Container[str] = ()) -> list[str]:
    """The names in a `state_dict` of what holds values that are infinite or not a number.

    Args:
        state: tensors by name; extra states of modules, which can be anything, are passed over.
        but: names that are left out, such as those that a network has from the start: the mask of
            an attention may hold minus infinity.

    Example:
        >>> state = {"weight": torch.ones(2), "mask": torch.tensor(-torch.inf)}
        >>> infinite_values(state), infinite_values(state, but=["mask"])
        (['mask'], [])
    """
    weights = {name: value for name, value in state.items() if _is_weight(name, value)}
    return [name for name, value in weights.items() if name not in but and not _is_finite(value)]


def check_optimizers(trainer: Trainer) -> None:
    """Refuse what a checkpoint brought into the optimizers if they cannot continue from it.

    Args:
        trainer: after it has restored the checkpoint, if there is one.

    Raises:
        CheckpointError: if it was saved with an optimizer of another kind, or is damaged.
    """
    path = trainer.ckpt_path
    if path is None:
        return
    for optimizer in trainer.optimizers:
        name = type(optimizer).__name__
        for group in optimizer.param_groups:
            if missing := sorted(optimizer.defaults.keys() - group.keys()):
                raise CheckpointError(
                    f"The checkpoint {path} was saved with another optimizer than {name} (it has "
                    f"no {missing[0]}): use the config.yaml that was saved beside it."
                )
            for key, value in optimizer.defaults.items():
                if isinstance(value, float) and not isinstance(group[key], int | float | Tensor):
                    raise damaged(path, f"{key} of {name} is of type {type(group[key]).__name__}")
        for parameter, state in optimizer.state.items():
            if not isinstance(state, Mapping):
                raise damaged(path, f"a state of {name} is of type {type(state).__name__}")
            for key in _LIKE_WEIGHTS:
                value = state.get(key)
                if value is not None and getattr(value, "shape", None) != parameter.shape:
                    raise damaged(path, f"{key} of {name} is not of the right shape")


def _refuse_other_names(
    module: nn.Module, weights: Mapping[str, Any], path: str | Path, strict: bool
) -> None:
    """Raise an error if the names would agree with another prefix: trainers look for none."""
    named = named_as_in(module, weights)
    own, given = module.state_dict().keys(), with_present_names(named.weights, module).keys()
    if named.renamed is not None and (own == given if strict else own & given):
        raise CheckpointError(
            f"The weights in the checkpoint {path} have other names than those of the network "
            f"({named.renamed}): load them with callbacks.WarmStart or load_from_checkpoint, which "
            "look for such names."
        )


def _of_another_network(
    path: str | Path, reasons: list[str], content: Mapping[str, Any]
) -> CheckpointError:
    than, remedy = "", "build the network that its weights were saved from"
    if is_from_trainer(content):  # a run has saved it, with its config
        than, remedy = " than the config describes", "use the config.yaml that was saved beside it"
    more = "; ..." if len(reasons) > _SHOWN else ""
    return CheckpointError(
        f"The checkpoint {path} belongs to another network{than} "
        f"({'; '.join(reasons[:_SHOWN])}{more}): {remedy}."
    )


def _differing_shapes(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], strict: bool
) -> Iterator[str]:
    """Which weights have other shapes, and with `strict` also which are missing, in words."""
    for name in [*own, *given]:
        if name in own and name in given:
            if not _is_weight(name, own[name]):
                continue
            here, there = own[name].shape, given[name].shape
            if here != there:
                yield f"{name} is {_size(there)} there and {_size(here)} here"
        elif strict:
            yield f"{name} is missing {'there' if name in own else 'here'}"


def _impossible_scores(
    module: nn.Module, weights: Mapping[str, Tensor], callbacks: Any
) -> Iterator[str]:
    """What is wrong with scores of gates, after the settings that their learner has saved."""
    settings = _settings_of_scores(callbacks)
    low, high = (settings.get(key, value) for key, value in (("low", 0.0), ("high", 1.0)))
    if not (isinstance(low, float | int) and isinstance(high, float | int)):
        yield "the interval of scores that a callback saved is none"
        return
    for gate_name, gate in module.named_modules():
        name = f"{gate_name}.scores" if gate_name else "scores"
        if not isinstance(gate, Gate) or name not in weights:
            continue
        scores = weights[name].float()
        usable = scores >= 0
        largest = float(scores.max())
        if largest > max(high, 1.0) + _ROUNDING:
            yield f"{name} has a score of {largest:g}, and scores are between {low:g} and {high:g}"
        sums = scores.clamp_min(0).sum(-1)[usable.any(-1)]
        wrong = (sums - 1).abs() > _ROUNDING
        if settings.get("normalize") and settings.get("steps") and wrong.any():
            yield f"the scores of a target in {name} sum to {float(sums[wrong][0]):g}, not to 1"


def _settings_of_scores(callbacks: Any) -> Mapping[str, Any]:
    """What `MaskConnect` saved of its optimizer; nothing if there is none."""
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        optimizer = state.get("optimizer") if isinstance(state, Mapping) else None
        groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
        if groups and isinstance(groups[0], Mapping) and "normalize" in groups[0]:
            settings: Mapping[str, Any] = groups[0]
            return settings
    return {}


def _is_weight(name: str, value: Any) -> bool:
    """Whether it is a parameter or buffer, and no extra state, which only its module can judge."""
    return isinstance(value, Tensor) and name.rpartition(".")[2] != "_extra_state"


def _is_finite(value: Tensor) -> bool:
    """Whether all values of a tensor of any layout and dtype are finite."""
    if is_lazy(value) or value.is_meta:
        return True  # it has no values yet
    if not (value.is_floating_point() or value.is_complex()):
        return True
    if value.layout != torch.strided:
        value = (value.coalesce() if value.layout == torch.sparse_coo else value).values()
    if value.itemsize == 1:  # torch has no `isfinite` for numbers of 8 bits
        value = value.float()
    return bool(value.isfinite().all())


def _kind(value: Tensor) -> tuple[bool, bool, bool]:
    """What a conversion must not change; numbers may have another precision."""
    return value.dtype == torch.bool, value.is_floating_point(), value.is_complex()


def _alike(own: Any, saved: Any) -> bool:
    """Whether saved values are of the kinds of those that they will replace."""
    if isinstance(own, dict):
        return isinstance(saved, dict) and all(
            _alike(own[key], saved[key]) for key in own.keys() & saved.keys()
        )
    return not isinstance(own, int) or isinstance(saved, int)


def _size(shape: torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a number"
