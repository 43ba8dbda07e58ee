"""What rank 0 sends arrives on the device of the rank that gets it."""

import pickle
from typing import Any

import torch
from torch import Tensor

from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW
from wiring_lightning.callbacks.own_parameters import copy_from_first_rank, from_first_rank
from wiring_lightning.nn import Adjacency


class OnGPU(Tensor):
    """A tensor that says it is on a GPU; its values are on the CPU, as here there may be none."""

    number: int

    @staticmethod
    def put(values: Tensor, number: int) -> "OnGPU":
        placed = values.detach().as_subclass(OnGPU)
        placed.number = number
        return placed

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.number)

    def detach(self) -> "OnGPU":
        return OnGPU.put(self.as_subclass(Tensor), self.number)

    def cpu(self) -> Tensor:
        return self.as_subclass(Tensor).clone()


def on(device: torch.device | str, values: Tensor) -> Tensor:
    device = torch.device(device)
    return values if device.type == "cpu" else OnGPU.put(values, device.index)


def second_of_two_ranks(sent: Tensor, monkeypatch: Any) -> Any:
    """A trainer whose rank 0, on the first GPU, sends these values, pickled as torch does it."""
    trainer = quiet_trainer()

    def broadcast(own: Tensor) -> Tensor:
        values: Tensor = pickle.loads(pickle.dumps(sent))
        return OnGPU.put(values, 0) if isinstance(own, OnGPU) else values

    monkeypatch.setattr(trainer.strategy, "broadcast", broadcast)
    move = Tensor.to
    monkeypatch.setattr(
        Tensor,
        "to",
        lambda values, device, *more, **options: (
            on(device, values)
            if isinstance(device, torch.device)
            else move(values, device, *more, **options)
        ),
    )
    return trainer


def test_it_arrives_on_the_own_device(monkeypatch: Any) -> None:
    sent = torch.tensor([1.0, 2.0])
    trainer = second_of_two_ranks(sent, monkeypatch)
    received = from_first_rank(OnGPU.put(torch.zeros(2), 1), trainer)
    assert received.device == torch.device("cuda", 1)
    assert received.tolist() == [1.0, 2.0]
    assert from_first_rank(torch.zeros(2), trainer).device == torch.device("cpu")


def test_absent_weights_arrive_on_the_own_device(monkeypatch: Any) -> None:
    graph = Adjacency(torch.ones(4, 4, dtype=torch.bool), edges=5)
    assert graph.absent is not None
    sent = graph.absent + 1
    trainer = second_of_two_ranks(sent, monkeypatch)
    graph.absent = OnGPU.put(graph.absent, 1)
    monkeypatch.setattr(type(trainer), "lightning_module", property(lambda _: graph))
    DNW().find_groups(trainer, torch.nn.Sequential(graph))
    assert graph.absent.device == torch.device("cuda", 1)
    assert graph.absent.tolist() == sent.tolist()


def test_parameters_keep_their_memory_and_take_the_values(monkeypatch: Any) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    where = parameter.data_ptr()
    trainer = second_of_two_ranks(torch.tensor([1.0, 2.0]), monkeypatch)
    copy_from_first_rank([parameter], trainer)
    assert parameter.tolist() == [1.0, 2.0]
    assert parameter.data_ptr() == where
