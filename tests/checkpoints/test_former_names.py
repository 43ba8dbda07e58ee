"""Checkpoints that name a child as an earlier version did are read, and checked, as before."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from tests.methods import Method, digits, named
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.callbacks import DNW
from wiring_lightning.checkpoints import CheckpointError, check_weights, load_weights
from wiring_lightning.nn.described import with_present_names
from wiring_lightning.tasks import ClassificationTask

GRAPHS = ["neural-graph", "discrete-graph", "continuous-graph"]


def _as_before(state: Any) -> Any:
    """A `state_dict` with `graph` in the place of `adjacency`, in its keys and its notes."""

    def rename(name: str) -> str:
        return ".".join("graph" if part == "adjacency" else part for part in name.split("."))

    old = OrderedDict((rename(key), value) for key, value in state.items())
    assert old.keys() != state.keys()
    notes = {rename(name): note for name, note in state._metadata.items()}
    setattr(old, "_metadata", OrderedDict(notes))  # noqa: B010
    return old


def _network(method: Method, seed: int, **changed: Any) -> nn.Module:
    torch.manual_seed(seed)
    return method.backbone(**{**method.arguments, **changed})


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_a_bare_state_dict(name: str, inside: int) -> None:
    saved, other = _network(named(name), 0), _network(named(name), 1)
    for _ in range(inside):  # the network as a part of another module, and of that of one more
        saved, other = nn.ModuleDict({"net": saved}), nn.ModuleDict({"net": other})
    old = _as_before(saved.state_dict())
    before = list(old)
    check_weights(other, old, "x.pt")
    other.load_state_dict(old)
    assert list(old) == before  # what was given is not changed
    assert other.state_dict().keys() == saved.state_dict().keys()
    for key, value in saved.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    present = with_present_names(old, other)
    assert list(present) == list(saved.state_dict())
    assert present._metadata == saved.state_dict()._metadata  # type: ignore[attr-defined]


def test_compact_networks_and_names_that_only_begin_alike() -> None:
    network = _network(named("neural-graph"), 0).eval()
    old = _as_before(network.compact().state_dict())
    small = network.compact()
    nn.init.zeros_(small.adjacency.values)
    small.load_state_dict(old)
    assert torch.equal(small.adjacency.values, network.compact().adjacency.values)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*graphs\.weight"):
        network.load_state_dict({**network.state_dict(), "graphs.weight": torch.ones(1)})


def test_an_old_checkpoint_of_another_network_is_still_refused(tmp_path: Path) -> None:
    method = named("neural-graph")
    saved = _as_before(_network(method, 0).state_dict())
    for changed in ({"edges": 400}, {"rank_all": True}, {"nodes": 88}):
        other = _network(method, 0, **changed)
        before = {key: value.clone() for key, value in other.state_dict().items()}
        torch.save(saved, tmp_path / "old.pt")
        with pytest.raises(CheckpointError, match="another network"):
            load_weights(other, tmp_path / "old.pt")
        assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


class _Foreign(LightningModule):
    """Other people's module with such a network inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NeuralGraph(**named("neural-graph").arguments)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_run_goes_on_from_an_old_checkpoint(foreign: bool, tmp_path: Path) -> None:
    def module() -> LightningModule:
        torch.manual_seed(0)
        return _Foreign() if foreign else named("neural-graph").task()

    def fit(steps: int, ckpt_path: Path | None = None) -> LightningModule:
        made = module()
        trainer = quiet_trainer(callbacks=[DNW()], max_epochs=-1, max_steps=steps)
        trainer.fit(made, digits(), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return made

    fit(3)
    content = torch.load(tmp_path / "3.ckpt", weights_only=True)
    content["state_dict"] = _as_before(content["state_dict"])
    torch.save(content, tmp_path / "old.ckpt")
    found, expected = fit(6, tmp_path / "old.ckpt"), fit(6, tmp_path / "3.ckpt")
    assert same_state(found.state_dict(), expected.state_dict())
    if not foreign:
        loaded = ClassificationTask.load_from_checkpoint(tmp_path / "old.ckpt")
        images = torch.randn(2, 1, 8, 8)
        first = named("neural-graph").task()
        load_weights(first, tmp_path / "3.ckpt")
        assert torch.equal(loaded.eval()(images), first.eval()(images))


def test_the_old_attribute_still_reads_and_warns() -> None:
    network = _network(named("neural-graph"), 0)
    with pytest.warns(FutureWarning, match="called adjacency now"):
        old = network.graph
    assert old is network.adjacency
