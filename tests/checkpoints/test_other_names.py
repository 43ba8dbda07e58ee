"""Files of weights as other people's trainers write them, with other names for the weights."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.checkpoints.test_other_networks import resnext
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import WarmStart
from wiring_lightning.checkpoints import CheckpointError, load_weights, storage
from wiring_lightning.data import Digits
from wiring_lightning.tasks import ClassificationTask

State = dict[str, Tensor]


def with_prefix(state: State, prefix: str) -> State:
    """As a network inside of another module has them, with what torch notes about modules."""
    parts = prefix.removesuffix(".").split(".")
    renamed = OrderedDict((prefix + name, value) for name, value in state.items())
    notes = {".".join([*parts, name]).strip("."): note for name, note in state._metadata.items()}  # type: ignore[attr-defined]
    renamed._metadata = OrderedDict(notes)  # type: ignore[attr-defined]
    return renamed


FILES: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "distributed": lambda state: with_prefix(state, "module."),
    "compiled": lambda state: with_prefix(state, "_orig_mod."),
    "compiled and distributed": lambda state: with_prefix(state, "module._orig_mod."),
    "compiled in a task": lambda state: with_prefix(state, "backbone._orig_mod."),
    "in a task of others": lambda state: {"state_dict": with_prefix(state, "net.")},
    "of torchvision": lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 3},
    "of the tutorial": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.5)},
    "of timm": lambda state: {"arch": "resnet", "state_dict": state, "state_dict_ema": state},
}


def saved(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_whatever_prefix_its_names_have(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(storage, "rank_zero_info", told.append)
    network = resnext()
    path = saved(FILES[kind](network.state_dict()), tmp_path / "w.pth")
    warm, bare = ClassificationTask(resnext()), resnext()
    WarmStart(path).setup(quiet_trainer(), warm, "fit")
    assert len(told) == 1
    assert "w.pth have other names than here (" in told[0]
    load_weights(bare, path)
    built = ClassificationTask.load_from_checkpoint(path, backbone=resnext())
    for one in (warm.backbone, bare, built.backbone):
        assert same_state(one.state_dict(), network.state_dict())
    with pytest.raises(CheckpointError, match=r"another network \(.*fan_in is 2 there and 3 here"):
        ClassificationTask.load_from_checkpoint(path, backbone=resnext(fan_in=3))


def test_a_compiled_network_takes_plain_weights(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    compiled = nn.Sequential(OrderedDict(_orig_mod=nn.Linear(3, 2)))  # the names of torch.compile
    load_weights(compiled, saved(network.state_dict(), tmp_path / "w.pth"))
    assert torch.equal(compiled.get_submodule("_orig_mod").weight, network.weight)


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two models": (lambda state: {"model": state, "ema": state}, "under model and under ema: save"),
    "no weights": (lambda _: {"epoch": 3, "args": "x"}, r"holds no weights \(but epoch, args\)"),
    "another prefix for each": (
        lambda state: {f"{place}.{name}": one for place, (name, one) in enumerate(state.items())},
        "another network .*: build the network that its weights were saved from",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    make, said = REFUSED[kind]
    path = saved(make(nn.Linear(3, 2).state_dict()), tmp_path / "w.pth")
    for load in (load_weights, lambda net, where: ClassificationTask.load_from_checkpoint(
        where, backbone=net)):  # fmt: skip
        with pytest.raises(CheckpointError, match=said):
            load(nn.Sequential(nn.Linear(3, 2)), path)


def test_safetensors_are_told_what_makes_a_checkpoint_of_them(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match=r"save what safetensors.torch.load_file\(path\)"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.safetensors")


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of a short fit."""
    path = tmp_path_factory.mktemp("fit") / "good.ckpt"
    trainer = quiet_trainer(limit_train_batches=1)
    trainer.fit(ClassificationTask(resnext(wiring="random")), Digits(batch_size=64))
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("strict", [None, True, False])
def test_names_that_do_not_agree_are_refused_or_told(
    strict: bool | None, given: bool, content: dict[str, Any], tmp_path: Path
) -> None:
    """Whether the network is the one that the checkpoint describes, or a given one."""

    def loaded(state: State) -> ClassificationTask:
        path = saved({**content, "state_dict": state}, tmp_path / "w.ckpt")
        network = {"backbone": resnext(wiring="random")} if given else {}
        return ClassificationTask.load_from_checkpoint(path, strict=strict, **network)

    state = content["state_dict"]
    task = loaded({f"module.{name}": value for name, value in state.items()})
    assert same_state(task.state_dict(), state)
    with pytest.raises(CheckpointError, match=r"w.ckpt belongs to another network"):
        loaded({f"layer{place}.x": one for place, one in enumerate(state.values())})
    other = {name.replace("classifier", "head"): value for name, value in state.items()}
    if strict is not False:
        with pytest.raises(CheckpointError, match=r"classifier\.weight is missing there"):
            loaded(other)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(loaded(other).backbone.stem[0].weight, state["backbone.stem.0.weight"])
    said = " ".join(str(one.message) for one in caught)
    assert "backbone.classifier.weight" in said
    assert "backbone.head.weight" in said


def test_a_task_that_is_not_strict_starts_warm(tmp_path: Path) -> None:
    task = ClassificationTask(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    task.strict_loading = False
    first = nn.Linear(3, 4)
    state = {f"backbone.0.{name}": value for name, value in first.state_dict().items()}
    with pytest.warns(UserWarning, match=r"^2 weight\(s\) are missing in the file .*backbone\.1\."):
        load_weights(task, saved(state, tmp_path / "w.pth"))
    assert torch.equal(task.backbone[0].weight, first.weight)


def test_a_trainer_is_told_what_reads_other_names(content: dict[str, Any], tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in content["state_dict"].items()}
    path = saved({**content, "state_dict": state}, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match=r"other names .*: load them with callbacks.WarmS"):
        quiet_trainer().test(ClassificationTask(resnext(wiring="random")), Digits(), ckpt_path=path)
