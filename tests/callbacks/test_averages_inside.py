"""Averages and teachers inside of the module, in fits in which they began with other values."""

import csv
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.callbacks.averaged import fit, values_of
from tests.callbacks.reader import MAKE, Gated, Reader, edges
from tests.callbacks.test_averages import LEARNERS, K
from tests.callbacks.tiny_super_network import (
    Searching,
    TinySuperNetwork,
    fit as search,
    new_search,
)
from wiring_lightning.callbacks import (
    DNW,
    GradualPruning,
    MaskConnect,
    PruneAndRetrain,
    RigL,
    WiringMonitor,
)
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners

SPARSE: dict[str, Callable[[], Callback]] = {
    **LEARNERS,
    "PruneAndRetrain, late": lambda: PruneAndRetrain(2, density=0.25),
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2),
    "two DNWs": lambda: DNW(density=0.25, layers=["Linear"]),
}
del SPARSE["DNW, frozen"], SPARSE["PruneAndRetrain"]


def swa(net: nn.Module) -> nn.Module:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.7))


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "swa": swa,
    "deepcopy": deepcopy,
    "frozen": lambda net: deepcopy(net).requires_grad_(False),
}


# Every learner with one kind of copy, and one learner with all kinds.
PAIRS = [*zip(SPARSE, cycle(COPIES), strict=False), ("DNW", "deepcopy"), ("DNW", "frozen")]

# The other learners find what is no average with the code of DNW.
FEW = [pair for pair in PAIRS if pair[0] in ("DNW", "PruneAndRetrain, late", "RigL", "two DNWs")]


class Averaged(Reader):
    """Keeps an average of its network, which no optimizer holds."""

    def __init__(self, copy: str = "swa", net: nn.Module | None = None) -> None:
        super().__init__()
        del self.first, self.body, self.head
        self.net = net or Reader()
        self.ema = COPIES[copy](self.net)

    @property
    def average(self) -> Any:
        return self.ema.module if isinstance(self.ema, AveragedModel) else self.ema

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    @torch.no_grad()
    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        for mine, own in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(own, 0.3)

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated.append(edges(self.average.head))

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())


def learners(name: str) -> list[Callback]:
    more = [DNW(density=0.25, layers=["Conv2d"])] if name == "two DNWs" else []
    return [SPARSE[name](), *more]


def counts(values: dict[str, Tensor], prefix: str) -> dict[str, int]:
    return {name: int(values[prefix + name].count_nonzero()) for name in K}


@pytest.mark.parametrize(("learner", "copy"), PAIRS)
def test_a_run_with_an_average_inside_resumes(learner: str, copy: str, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    whole = fit(*learners(learner), saver, module=Averaged(copy), enable_checkpointing=True)
    assert counts(whole.state_dict(), "net.") == K
    assert counts(dict(whole.average.state_dict()), "") == K
    for step in (5, 10):
        with catch_warnings(record=True) as said:
            resumed = fit(
                *learners(learner), module=Averaged(copy), ckpt_path=tmp_path / f"step={step}.ckpt"
            )
        assert not [str(one.message) for one in said if "stay as they are" in str(one.message)]
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(("learner", "copy"), PAIRS)
def test_a_network_with_an_older_average_becomes_sparse_with_it(
    learner: str, copy: str, tmp_path: Path
) -> None:
    """After a dense training, and in a second fit of a learner."""
    module = fit(module=Averaged(copy))
    assert not torch.equal(module.average.head.weight, module.net.head.weight)
    for number in range(2):
        saver = ModelCheckpoint(tmp_path / str(number), save_last=True, save_top_k=0)
        with pytest.warns(UserWarning, match="only an average of the network gets the wiring"):
            fit(*learners(learner), saver, module=module, enable_checkpointing=True)
        saved = torch.load(tmp_path / f"{number}/last.ckpt", weights_only=True)["state_dict"]
        ema = "ema.module." if copy == "swa" else "ema."
        assert counts(saved, ema) == counts(values_of(module.average), "") == K
        assert counts(saved, "net.") == counts(values_of(module.net), "") == K
        assert module.validated[-1] == K["head.weight"]


class Kept(Averaged):
    """Its other network is no average; it may be set when the training starts."""

    def __init__(self, copy: str = "frozen", late: bool = False) -> None:
        super().__init__(copy)
        self.late = late
        self.expected = {
            name: torch.full_like(value, 0.5).normal_() for name, value in values_of(self).items()
            if name.startswith("ema.")
        }  # fmt: skip
        if not late:
            self.load_state_dict(self.expected, strict=False)

    def on_train_start(self) -> None:
        if self.late:
            self.load_state_dict(self.expected, strict=False)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """A teacher does not change."""

    def validation_step(self, batch: Any, _: int) -> None:
        self.assert_kept()

    def assert_kept(self) -> None:
        for values in (values_of(self), self.state_dict()):
            assert all(torch.equal(values[name], value) for name, value in self.expected.items())


@pytest.mark.parametrize(("learner", "copy"), FEW)
def test_a_teacher_with_other_values_stays_as_it_is(
    learner: str, copy: str, tmp_path: Path
) -> None:
    module = Kept(copy)
    with pytest.warns(UserWarning, match=r"the weights of ema.* stay as they are"):
        fit(*learners(learner), module=module)
    module.assert_kept()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    fit(*learners(learner), saver, module=module, enable_checkpointing=True)
    module.assert_kept()
    resumed = Kept(copy)
    resumed.expected = module.expected
    fit(*learners(learner), module=resumed, ckpt_path=tmp_path / "step=10.ckpt")
    resumed.assert_kept()
    assert counts(resumed.state_dict(), "net.") == K


def test_a_teacher_that_is_loaded_when_training_starts_stays_as_it_is() -> None:
    module = fit(module=Averaged("frozen"))
    late = Kept(late=True)
    late.ema.load_state_dict(module.ema.state_dict())
    fit(DNW(density=0.25), module=late)
    late.assert_kept()


class Player(Averaged):
    """Trains its other network with an optimizer that Lightning does not know."""

    def __init__(self) -> None:
        super().__init__("deepcopy")
        for parameter in self.ema.parameters():
            parameter.data.normal_()
        self.own = SGD(self.ema.parameters(), lr=0.3)

    def training_step(self, batch: Any, index: int) -> Tensor:
        self.own.zero_grad()
        nn.functional.cross_entropy(self.ema(batch[0]), batch[1]).backward()
        self.own.step()
        return super().training_step(batch, index)

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Two networks learn, each for itself."""

    def validation_step(self, batch: Any, _: int) -> None:
        """Nothing to see."""


@pytest.mark.parametrize("learner", ["DNW", "RigL"])
def test_a_network_that_learns_by_itself_is_no_average(learner: str) -> None:
    module = fit(SPARSE[learner](), module=Player())
    assert all(weight.all() for weight in module.ema.parameters())
    assert counts(values_of(module.net), "") == K


class Partly(Reader):
    """A part of it is like another one, and in no optimizer."""

    def __init__(self, where: str) -> None:
        super().__init__(MAKE)
        if where == "beside":
            self.head2 = nn.Linear(16, 10)
            self.head2.weight.data.fill_(0.1)
        else:
            block = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
            self.tail = nn.Sequential(block, nn.Sequential(*map(deepcopy, block)))
            nn.init.ones_(self.tail[1][0].weight)

    @property
    def left(self) -> nn.Module:
        return self.head2 if hasattr(self, "head2") else self.tail[1]

    def configure_optimizers(self) -> Any:
        left = set(self.left.parameters())
        return self.make([p for p in self.parameters() if p not in left])


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_part_of_the_network_that_was_forgotten_is_no_copy(where: str) -> None:
    with pytest.raises(MisconfigurationException, match="in no optimizer"):
        fit(DNW(density=0.25), module=Partly(where))
    module = Partly(where)
    module.left.requires_grad_(False)
    with pytest.warns(UserWarning, match="they do not learn"):
        fit(DNW(density=0.25), module=module)


class Tables(Callback):
    """The names in the table of the layers at the end of a fit."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (learner,) = find_sparse_learners(trainer)
        self.rows = [row.name for row in learner.layer_costs(trainer, pl_module)]


def test_tables_and_numbers_leave_out_an_average_whatever_its_values(tmp_path: Path) -> None:
    def run(name: str, module: Averaged, *more: Callback, **settings: Any) -> None:
        logger, tables = CSVLogger(tmp_path, name), Tables()
        monitor = WiringMonitor(pictures=False)
        fit(DNW(density=0.25), monitor, tables, *more, module=module, logger=logger, **settings)
        assert tables.rows == ["net.first", "net.body.1", "net.head"]
        with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
            live = [row["wiring/parameters_live"] for row in csv.DictReader(file)]
        values = values_of(module.net)
        dense = sum(value.numel() for value in values.values())
        lost = sum(values[weight].numel() - k for weight, k in K.items())
        assert {float(number) for number in live if number} == {dense - lost}

    module, saver = Averaged("frozen"), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)
    run("first", module, saver, enable_checkpointing=True)
    run("resumed", Averaged("frozen"), ckpt_path=tmp_path / "last.ckpt", max_epochs=4)
    run("second", module)


class LoneGate(Gated):
    """Averages its gate alone, or all of the network."""

    def __init__(self, copy: str) -> None:
        super().__init__()
        self.ema = COPIES[copy](self.gate)

    @torch.no_grad()
    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        average = self.ema.module if isinstance(self.ema, AveragedModel) else self.ema
        average.scores.lerp_(self.gate.scores, 0.3)

    def configure_optimizers(self) -> Any:
        return SGD([p for n, p in self.named_parameters() if not n.startswith("ema")], lr=0.3)


class GatedAverage(Averaged):
    def __init__(self, copy: str) -> None:
        super().__init__(copy, Gated())
        self.make = partial(SGD, lr=0.3)

    @property
    def gate(self) -> Any:
        return self.net.gate


GATES = [
    (GatedAverage, "swa", None),
    (GatedAverage, "swa", 2),
    (GatedAverage, "deepcopy", None),
    (GatedAverage, "frozen", None),
    (LoneGate, "swa", None),
    (LoneGate, "frozen", 2),
]


@pytest.mark.parametrize(("kind", "copy", "freeze"), GATES)
def test_gates_of_an_average_are_not_learned_in_resumed_and_second_fits(
    kind: Any, copy: str, freeze: int | None, tmp_path: Path
) -> None:
    def assert_wired(module: Any) -> None:
        average = module.ema.module if isinstance(module.ema, AveragedModel) else module.ema
        gate = average if kind is LoneGate else average.gate
        for name in ("scores", "active", "frozen"):
            assert torch.equal(getattr(gate, name), getattr(module.gate, name))

    make = partial(MaskConnect, lr=0.5, freeze_epoch=freeze)
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    whole = fit(make(), saver, module=kind(copy), enable_checkpointing=True)
    assert_wired(whole)
    learner = make()
    resumed = fit(learner, module=kind(copy), ckpt_path=tmp_path / "step=10.ckpt")
    assert len(learner.gates) == 1
    assert learner.gates[0] is resumed.gate
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    if freeze is None and kind is GatedAverage:
        second = make()
        assert_wired(fit(second, module=resumed))
        assert len(second.gates) == 1


class Searched(Searching):
    """Keeps an average of its super-network."""

    def __init__(self, copy: str) -> None:
        torch.manual_seed(0)
        super().__init__(TinySuperNetwork())
        self.ema = COPIES[copy](self.net)

    @torch.no_grad()
    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        average = self.ema.module if isinstance(self.ema, AveragedModel) else self.ema
        for mine, own in zip(average.parameters(), self.net.parameters(), strict=True):
            mine.lerp_(own, 0.3)

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.net.parameters(), **self.settings)


@pytest.mark.parametrize("copy", COPIES)
def test_a_search_with_an_average_inside(copy: str, tmp_path: Path) -> None:
    def assert_wired(module: Searched) -> None:
        average: Any = module.ema.module if isinstance(module.ema, AveragedModel) else module.ema
        assert torch.equal(average.gate.logits, module.net.gate.logits)

    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = Searched(copy)
    search(whole, new_search(), saver, max_epochs=3, enable_checkpointing=True)
    assert_wired(whole)
    resumed, path = Searched(copy), tmp_path / "epoch=0.ckpt"
    search(resumed, new_search(), max_epochs=3, ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    search(whole, new_search(), max_epochs=1)
    assert_wired(whole)
