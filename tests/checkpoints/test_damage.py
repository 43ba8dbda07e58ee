"""Damaged bytes and impossible values are found, wherever they are."""

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from tests.checkpoints.test_other_networks import graph, resnext
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, MaskConnect
from wiring_lightning.checkpoints import (
    AtomicCheckpointIO,
    CheckpointError,
    infinite_values,
    load_checkpoint,
    load_weights,
)
from wiring_lightning.data import Digits
from wiring_lightning.nn import SparseLinear
from wiring_lightning.tasks import ClassificationTask

Content = dict[str, Any]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short fit."""
    path = tmp_path_factory.mktemp("fit") / "good.ckpt"
    trainer = quiet_trainer(callbacks=[MaskConnect()], limit_train_batches=2)
    trainer.fit(ClassificationTask(resnext()), Digits(batch_size=64))
    trainer.save_checkpoint(path)
    return path


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# Bytes


def weights_in(content: bytes) -> list[tuple[int, int]]:
    """First and last byte of every part of a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = archive.infolist()
        places = []
        for part in parts:
            with archive.open(part) as file:
                start = file._orig_compress_start  # type: ignore[attr-defined]
            places.append((start, start + part.file_size))
    return places


@pytest.mark.parametrize("seed", range(2))
def test_every_flipped_bit_of_a_value_is_found(seed: int, fit: Path, tmp_path: Path) -> None:
    content, chance, path = fit.read_bytes(), random.Random(seed), tmp_path / "flipped.ckpt"
    for start, end in weights_in(content):
        if end > start:
            flipped = bytearray(content)
            flipped[chance.randrange(start, end)] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=r"flipped.ckpt is damaged or is none"):
                load_checkpoint(path)


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(fit: Path, tmp_path: Path) -> None:
    content, chance, path = fit.read_bytes(), random.Random(0), tmp_path / "flipped.ckpt"
    good, found = load_checkpoint(fit), 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(load_checkpoint(path), good)
        except CheckpointError:
            found += 1
    assert found >= 55


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99, 0.9999])
def test_a_truncated_file_is_found(share: float, fit: Path, tmp_path: Path) -> None:
    content = fit.read_bytes()
    (tmp_path / "short.ckpt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="is damaged or is none"):
        load_checkpoint(tmp_path / "short.ckpt")


def archive_of_something() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.txt", "hello")
    return file.getvalue()


def object_with_code() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": torch.nn.Linear(1, 1)}, file)
    return file.getvalue()


OTHER_KINDS = {
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "an archive": archive_of_something(),
    "zeros": bytes(5000),
    "a config": b"model: {}\n",
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_file_of_another_kind_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "other.ckpt").write_bytes(OTHER_KINDS[kind])
    with pytest.raises(CheckpointError, match="is damaged or is none"):
        load_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize("content", [object_with_code(), b"cos\nsystem\n(S'true'\ntR."])
def test_objects_that_could_run_code_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "code.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"more than weights|is damaged or is none"):
        load_checkpoint(tmp_path / "code.ckpt")


def test_objects_are_read_by_those_who_trust_them(tmp_path: Path) -> None:
    (tmp_path / "code.ckpt").write_bytes(object_with_code())
    with pytest.raises(CheckpointError, match=r"\(torch.nn.modules.linear.Linear\).*trust"):
        load_checkpoint(tmp_path / "code.ckpt")
    content = load_checkpoint(tmp_path / "code.ckpt", weights_only=False)
    assert isinstance(content["state_dict"], torch.nn.Linear)


def test_older_formats_load(tmp_path: Path) -> None:
    weights = graph().state_dict()
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(load_checkpoint(tmp_path / "old.pt"), dict(weights))


def test_a_trainer_with_our_storage_finds_damage(fit: Path, tmp_path: Path) -> None:
    content = bytearray(fit.read_bytes())
    start, _ = weights_in(bytes(content))[3]
    content[start] ^= 1
    (tmp_path / "damaged.ckpt").write_bytes(content)
    trainer = quiet_trainer(plugins=[AtomicCheckpointIO()], limit_test_batches=1)
    with pytest.raises(CheckpointError, match="checksum"):
        trainer.test(ClassificationTask(resnext()), Digits(), ckpt_path=tmp_path / "damaged.ckpt")


# Values


SCORES, ACTIVE = "backbone.connections.module2.scores", "backbone.connections.module3.active"


def put(name: str, value: Any, index: Any = 0) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["state_dict"][name].view(-1)[index] = value

    return change


def replace(name: str, make: Callable[[Tensor], Any]) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["state_dict"][name] = make(content["state_dict"][name])

    return change


def scale_scores(content: Content) -> None:
    content["state_dict"][SCORES] *= 0.5


IMPOSSIBLE: dict[str, tuple[Callable[[Content], None], str]] = {
    "not a number": (put("backbone.classifier.bias", torch.nan), "classifier.bias holds values"),
    "infinite": (put("backbone.stem.0.weight", -torch.inf, 5), "stem.0.weight holds values"),
    "a running variance": (put("backbone.stem.1.running_var", torch.nan), "running_var holds"),
    "a score that is not a number": (put(SCORES, torch.nan), "scores holds values"),
    "a large score": (put(SCORES, 7.0), "has a score of 7, and scores are between 0 and 1"),
    "a negative score": (put(SCORES, -0.25), "has scores below 0, as if trained without"),
    "scores that sum to a half": (scale_scores, "sum to 0.5, not to 1"),
    "all connected": (put(ACTIVE, True, slice(None)), "has a target with 4 connections there and"),
    "none connected": (put(ACTIVE, False, slice(0, 4)), "has a target with 0 connections there"),
    "an average of wirings": (replace(ACTIVE, lambda a: a.float() / 2), "is of type torch.float32"),
    "whole numbers": (replace("backbone.classifier.bias", Tensor.long), "is of type torch.int64"),
    "no tensor": (replace(SCORES, Tensor.tolist), "scores is of type list"),
    "nothing": (replace(SCORES, lambda _: None), "scores is of type NoneType"),
    "no weights": (lambda content: content.update(state_dict=[1]), "state_dict is of type list"),
    "counters": (lambda content: content["loops"].update(fit_loop={"epoch_progress": {"total":
                 {"ready": "x"}}}), "fit_loop has counters that are no numbers"),
    "loops": (lambda content: content.update(loops=3), "its loops are of type int"),
    "optimizers": (lambda content: content.update(optimizer_states={}), "optimizer_states are of"),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_values_are_refused(kind: str, fit: Path, tmp_path: Path) -> None:
    spoil, said = IMPOSSIBLE[kind]
    content = load_checkpoint(fit)
    spoil(content)
    path = tmp_path / "spoiled.ckpt"
    torch.save(content, path)
    if kind not in ("counters", "loops", "optimizers"):  # the weights are good
        with pytest.raises(CheckpointError) as error:
            load_weights(ClassificationTask(resnext()), path)
        assert said in str(error.value)
        assert str(path) in str(error.value)


def test_scores_have_the_range_that_their_callback_gave_them(tmp_path: Path) -> None:
    wide = MaskConnect(lr=50.0, normalize=False, low=0.5, high=3.0)
    trainer = quiet_trainer(callbacks=[wide], limit_train_batches=3)
    trainer.fit(ClassificationTask(resnext()), Digits(batch_size=64))
    trainer.save_checkpoint(tmp_path / "wide.ckpt")
    load_weights(ClassificationTask(resnext()), tmp_path / "wide.ckpt")
    assert float(wide.gates[0].scores.detach().max()) > 1.1


def test_an_infinite_value_that_belongs_to_a_network_stays(tmp_path: Path) -> None:
    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3,), -torch.inf))

    torch.save(Masked().state_dict(), tmp_path / "masked.pt")
    load_weights(Masked(), tmp_path / "masked.pt")


# Optimizers


def test_training_does_not_continue_with_another_optimizer(tmp_path: Path) -> None:
    """One without a state at first would take the settings of another kind without a word."""
    data = Digits(batch_size=64)
    trainer = quiet_trainer(callbacks=[MaskConnect()], limit_train_batches=1)
    trainer.fit(ClassificationTask(resnext(), optimizer=lambda p: SGD(p, lr=0.1)), data)
    trainer.save_checkpoint(tmp_path / "sgd.ckpt")
    trainer = quiet_trainer(callbacks=[MaskConnect()], max_epochs=3)
    with pytest.raises(CheckpointError, match=r"another optimizer than Adam \(it has no betas\)"):
        trainer.fit(
            ClassificationTask(resnext(), optimizer=Adam), data, ckpt_path=tmp_path / "sgd.ckpt"
        )


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("state", 3), None, "a state of SGD is of type NoneType"),
        (("state", 3, "momentum_buffer"), 5, "momentum_buffer of SGD is not of the right shape"),
        (("state", 3, "momentum_buffer"), torch.ones(2), "momentum_buffer of SGD is not of the"),
        (("param_groups", 0, "weight_decay"), [1], "weight_decay of SGD is of type list"),
    ],
)
def test_a_damaged_state_of_an_optimizer_is_found(
    place: tuple[Any, ...], value: Any, said: str, fit: Path, tmp_path: Path
) -> None:
    content = load_checkpoint(fit)
    part = content["optimizer_states"][0]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    torch.save(content, tmp_path / "spoiled.ckpt")
    trainer = quiet_trainer(callbacks=[MaskConnect()], max_epochs=3)
    with pytest.raises(CheckpointError, match=said):
        trainer.fit(
            ClassificationTask(resnext()),
            Digits(batch_size=64),
            ckpt_path=tmp_path / "spoiled.ckpt",
        )


def test_an_optimizer_with_other_numbers_continues(fit: Path) -> None:
    task = ClassificationTask(resnext(), optimizer=lambda p: SGD(p, lr=0.5, momentum=0.5))
    trainer = quiet_trainer(callbacks=[MaskConnect()], max_epochs=2, limit_train_batches=1)
    trainer.fit(task, Digits(batch_size=64), ckpt_path=fit)


def test_sparse_graphs_continue(tmp_path: Path) -> None:
    data = Digits(batch_size=64)
    trainer = quiet_trainer(callbacks=[DNW(edges=350)], limit_train_batches=2)
    trainer.fit(ClassificationTask(graph()), data)
    trainer.save_checkpoint(tmp_path / "graph.ckpt")
    again = quiet_trainer(callbacks=[DNW(edges=350)], max_epochs=2, limit_train_batches=2)
    again.fit(ClassificationTask(graph()), data, ckpt_path=tmp_path / "graph.ckpt")


# Values that are infinite on purpose, and states that are no tensors


class Masked(nn.Module):
    """A linear layer with a mask of minus infinity, and with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("mean", torch.zeros(2))
        self.extra: Any = {"calls": 0}

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) + self.mask.exp() + self.mean

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


EXTRA_STATES = [{"calls": 7}, None, torch.tensor([torch.nan, 1.0]), torch.zeros(5).byte()]


def saved_task(task: ClassificationTask, path: Path) -> Path:
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    task.trainer = trainer
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("extra", EXTRA_STATES, ids=["mapping", "nothing", "nan", "bytes"])
def test_what_is_infinite_from_the_start_and_extra_states_are_saved(
    extra: Any, tmp_path: Path
) -> None:
    task = ClassificationTask(Masked())
    task.backbone.extra = extra
    path = saved_task(task, tmp_path / "w.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(path, backbone=Masked())
    other = ClassificationTask(Masked())
    load_weights(other, path)
    for one in (loaded, other):
        for name in ("layer.weight", "mask", "mean"):
            assert torch.equal(one.backbone.state_dict()[name], task.backbone.state_dict()[name])
        state = one.backbone.extra
        assert same(state, extra) or (isinstance(state, Tensor) and state.isnan().any())


@pytest.mark.parametrize("name", ["layer.weight", "layer.bias", "mean"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_became_infinite_is_neither_saved_nor_loaded(
    name: str, value: float, tmp_path: Path
) -> None:
    path = saved_task(ClassificationTask(Masked()), tmp_path / "w.ckpt")
    task = ClassificationTask(Masked())
    task.backbone.state_dict()[name].view(-1)[1:2] = value
    with pytest.raises(FloatingPointError, match=f"Values of backbone.{name} became infinite"):
        saved_task(task, tmp_path / "bad.ckpt")
    content = load_checkpoint(path)
    content["state_dict"][f"backbone.{name}"].view(-1)[1:2] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"backbone.{name} holds values that are infinite"):
        load_weights(ClassificationTask(Masked()), path)


def test_layers_stored_sparse_are_looked_at_as_well(tmp_path: Path) -> None:
    layer = nn.Linear(8, 3)
    layer.weight.data[:, 1:] = 0
    task = ClassificationTask(nn.Sequential(SparseLinear(layer), nn.Linear(3, 2)))
    path = saved_task(task, tmp_path / "w.ckpt")
    load_weights(task, path)
    task.backbone[0].weight.values()[0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"Values of backbone\.0\.weight"):
        saved_task(task, path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.complex64])
def test_numbers_of_every_kind_are_looked_at(dtype: torch.dtype) -> None:
    good = torch.tensor([1.0, 2.0]).to(dtype)
    bad = torch.tensor([1.0, torch.nan]).to(dtype)
    state = {"good": good, "bad": bad, "meta": bad.to("meta"), "whole": torch.tensor([1])}
    assert infinite_values({**state, "lazy": nn.LazyLinear(2).weight}) == ["bad"]
