"""Ranks whose steps go through different branches learn what one process with both would."""

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.callbacks.own_parameters import average_over_ranks
from wiring_lightning.callbacks.search_numbers import Sampled
from wiring_lightning.nn import Gate, find_gates

# In threads, which stand for ranks


class Threads:
    """A strategy whose ranks are threads; one that nobody answers ends in an error."""

    root_device = torch.device("cpu")

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=5)
        self.sent: list[Tensor] = []

    def reduce(self, own: Tensor, reduce_op: str) -> Tensor:
        self.sent.append(own)
        self.barrier.wait()
        together = torch.stack(self.sent)  # an error unless all have sent as much
        self.barrier.wait()
        return together.mean(0) if reduce_op == "mean" else together.sum(0)


def on_ranks(function: Callable[[Any, int], Any], ranks: int = 2) -> list[Any]:
    """What a function of a trainer and a rank returns on each rank."""
    trainer = SimpleNamespace(world_size=ranks, strategy=Threads(ranks))
    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: function(trainer, rank), range(ranks)))


HAVE = {
    "the same": ("ab", "ab"),
    "others": ("a", "b"),
    "more": ("ab", "a"),
    "none on one": ("a", ""),
    "none": ("", ""),
}


@pytest.mark.parametrize("scale", [None, 8.0])
@pytest.mark.parametrize("have", HAVE.values(), ids=HAVE)
def test_a_missing_gradient_counts_as_zero(have: tuple[str, str], scale: float | None) -> None:
    given = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([4.0, 5.0])}  # as many numbers

    def average(trainer: Any, rank: int) -> dict[str, Tensor | None]:
        parameters = {name: nn.Parameter(torch.zeros_like(one)) for name, one in given.items()}
        for name in have[rank]:
            parameters[name].grad = (rank + 1) * (scale or 1.0) * given[name]
        factor = None if scale is None else torch.tensor(scale)
        average_over_ranks(list(parameters.values()), trainer, factor)
        return {name: parameter.grad for name, parameter in parameters.items()}

    for seen in on_ranks(average):
        for name, gradient in given.items():
            weights = [rank + 1 for rank in range(2) if name in have[rank]]
            if weights:
                torch.testing.assert_close(seen[name], gradient * sum(weights) / 2)
            else:
                assert seen[name] is None


def test_a_rank_that_sampled_nothing_takes_part_in_the_means() -> None:
    sampled = [Sampled(3, 30.0, 1), Sampled()]
    for means in on_ranks(lambda trainer, rank: sampled[rank].on_all_ranks(trainer).means()):
        assert means == {"cost_sampled": 10.0, "within_budget": 1 / 3}
    assert on_ranks(lambda trainer, _: Sampled().on_all_ranks(trainer).means()) == [{}, {}]


# In processes

STEPS, BATCH = 4, 6
MakeOptimizer = Callable[[LightningModule], Optimizer]


def _of(make: Callable[..., Optimizer], scores: bool, module: LightningModule) -> Optimizer:
    """An optimizer of all parameters, or of those that are no scores."""
    return make([p for n, p in module.named_parameters() if scores or not n.endswith("scores")])


SGD_WITH_ALL: MakeOptimizer = partial(_of, partial(SGD, lr=0.1), True)


class Branches(nn.Module):
    """Two branches, each with a gate, of which a step takes those that it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 16)
        self.layers = nn.ModuleDict({name: nn.Linear(16, 16) for name in "ab"})
        self.gates = nn.ModuleDict({name: Gate(4, 4, 2) for name in "ab"})
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor, taken: str) -> Tensor:
        x = self.stem(x)
        for name in taken:
            units = torch.tanh(self.layers[name](x)).unflatten(1, (4, 4))
            x = x + self.gates[name](units).flatten(1)
        return self.head(x)


class Skipping(LightningModule):
    """A rank takes its own branches; one process alone takes those of each for a half."""

    def __init__(self, taken: tuple[str, ...], optimizer: MakeOptimizer = SGD_WITH_ALL) -> None:
        super().__init__()
        self.net, self.taken, self.optimizer = Branches(), taken, optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.trainer.world_size == 1:
            parts = zip(*(one.chunk(2) for one in batch), self.taken, strict=True)
        else:
            parts = zip(*([one] for one in batch), [self.taken[self.global_rank]], strict=True)
        losses = [nn.functional.cross_entropy(self.net(x, taken), y) for x, y, taken in parts]
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self)


TAKEN = {name: have for name, have in HAVE.items() if name not in ("the same", "none")}


def _fit(
    taken: tuple[str, ...], rank: int | None, optimizer: MakeOptimizer = SGD_WITH_ALL
) -> dict[str, Tensor]:
    seed_everything(3)
    module = Skipping(taken, optimizer)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2 * STEPS, BATCH, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (2 * STEPS, BATCH), generator=generator)
    own = slice(None) if rank is None else slice(rank, None, 2)
    data = TensorDataset(images[own].flatten(0, 1), labels[own].flatten())
    options: dict[str, Any] = {}
    if rank is not None:
        # A rank that waits in vain for the other one ends after a minute.
        strategy = DDPStrategy(find_unused_parameters=True, timeout=timedelta(minutes=1))
        options = {"devices": 2, "strategy": strategy, "use_distributed_sampler": False}
    trainer = quiet_trainer(callbacks=[MaskConnect(lr=0.5)], precision="64-true", **options)
    trainer.fit(module, DataLoader(data, batch_size=BATCH if rank is not None else 2 * BATCH))
    assert trainer.global_step == STEPS
    return dict(module.state_dict())


def _rank(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)})
    for name, taken in TAKEN.items():
        torch.save(_fit(taken, rank), folder / f"{name}{rank}.pt")
    for scores in (False, True):
        make = partial(ZeroRedundancyOptimizer, optimizer_class=Adam, lr=0.1)
        try:
            learned: Any = _fit(("ab", "ab"), rank, partial(_of, make, scores))
        except MisconfigurationException as error:
            learned = str(error)
        torch.save(learned, folder / f"zero{scores}{rank}.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where two ranks saved what they learned, and the error that ended them."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        torch.multiprocessing.start_processes(
            _rank, (folder, port), nprocs=2, start_method="forkserver"
        )
    except (
        torch.multiprocessing.ProcessRaisedException,
        torch.multiprocessing.ProcessExitedException,
    ) as error:
        return folder, str(error)
    return folder, "the ranks did not come to it"


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", TAKEN)
def test_ranks_that_skip_other_gates_agree_and_equal_one_process(
    name: str, saved: tuple[Path, str]
) -> None:
    folder, error = saved
    files = [folder / f"{name}{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), error
    first, second = (torch.load(file, weights_only=True) for file in files)
    alone = _fit(TAKEN[name], None)
    seed_everything(3)
    start = Skipping(TAKEN[name])
    learned = {f"net.{key}.scores" for key in find_gates(start.net)}
    assert learned <= alone.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        torch.testing.assert_close(value, alone[key], atol=1e-8, rtol=1e-8, msg=key)
    assert any(not torch.equal(alone[key], start.state_dict()[key].double()) for key in learned)


@pytest.mark.slow
@pytest.mark.usefixtures("workplace")
def test_an_optimizer_with_shares_of_the_ranks_does_not_move_scores(
    saved: tuple[Path, str],
) -> None:
    folder, error = saved
    assert (folder / "zeroTrue1.pt").exists(), error
    refused, learned = (
        [torch.load(folder / f"zero{scores}{rank}.pt", weights_only=True) for rank in range(2)]
        for scores in (True, False)
    )
    for said in refused:  # each rank, also one that has no scores in its share
        assert said.startswith("MaskConnect: ZeroRedundancyOptimizer keeps the scores of the gates")
    alone = _fit(("ab", "ab"), None, partial(_of, partial(Adam, lr=0.1), True))
    for values in learned:
        for key, value in values.items():
            torch.testing.assert_close(value, alone[key], atol=1e-8, rtol=1e-8, msg=key)
