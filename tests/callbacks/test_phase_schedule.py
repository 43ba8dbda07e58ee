"""PhaseSchedule in LightningModules that know nothing of this package."""

import math
import warnings
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, MaskConnect, Phase, PhaseSchedule, WiringCallback
from wiring_lightning.callbacks.phase_schedule import shares
from wiring_lightning.nn import Gate


class Net(LightningModule):
    """A gate between two layers; two parameter groups in the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.head = nn.Linear(2, 3 * 4), Gate(2, 3, 1), nn.Linear(8, 2)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        units = self.gate(self.first(batch[0]).unflatten(1, (3, 4)))
        return self.head(units.flatten(1)).square().mean()

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.first.parameters()}, {"params": self.head.parameters(), "lr": 3}]
        return SGD(groups, lr=0.4)


class Scheduled(Net):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [StepLR(optimizer, 1, gamma=0.5)]


class TwoOptimizers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self) -> list[Optimizer]:
        return [SGD(self.first.parameters(), lr=1.0), Adam(self.head.parameters(), lr=2.0)]


class TensorRate(Net):
    """Keeps its learning rate in a tensor, as captured and compiled optimizers do."""

    def configure_optimizers(self) -> Optimizer:
        self.rate = torch.tensor(0.5)
        weights = [*self.first.parameters(), *self.head.parameters()]
        return Adam(weights, lr=self.rate, foreach=False)


class Learner(WiringCallback):
    """Notes how it is steered."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, float | None]] = []
        self.epoch = -1

    def set_lr(self, lr: float) -> None:
        self.calls.append((self.epoch, "lr", lr))

    def freeze(self) -> None:
        self.calls.append((self.epoch, "freeze", None))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {}

    @property
    def by_epoch(self) -> dict[int, set[tuple[str, float | None]]]:
        return {
            epoch: {call[1:] for call in self.calls if call[0] == epoch}
            for epoch in sorted({call[0] for call in self.calls})
        }


class Notes(Callback):
    """Rates, progress bar and epoch during every batch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.bar: list[float | None] = []
        self.gate_rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.rates.append([float(group["lr"]) for group in groups])
        for callback in trainer.callbacks:
            if isinstance(callback, MaskConnect):
                self.gate_rates.append(callback.optimizer.group["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.bar.append(trainer.progress_bar_metrics.get("wiring/phase"))


class EpochOf(Callback):
    """Tells a Learner the epoch; placed before the schedule."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.learner.epoch = trainer.current_epoch

    on_train_epoch_start = on_train_start


def fit(
    module: LightningModule, *callbacks: Callback, batches: int = 2, **settings: Any
) -> Trainer:
    ckpt_path = settings.pop("ckpt_path", None)
    if "max_epochs" not in settings:
        settings |= {"max_epochs": -1, "max_steps": 100}
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    data = DataLoader(TensorDataset(torch.randn(2 * batches, 2)), batch_size=2)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


PHASES = [Phase(2, lr=0.1), Phase(1), Phase(2, lr=0.02)]


@pytest.mark.parametrize("module", [Net, TwoOptimizers])
def test_every_group_of_every_optimizer_has_the_rate_of_the_phase(module: Any) -> None:
    notes = Notes()
    trainer = fit(module(), PhaseSchedule(PHASES), notes)
    assert trainer.current_epoch == 5
    # The second phase names no rate and leaves what it finds.
    assert notes.rates == [[0.1, 0.1]] * 6 + [[0.02, 0.02]] * 4


def test_without_a_rate_the_optimizers_own_rates_stay() -> None:
    notes = Notes()
    fit(Net(), PhaseSchedule([Phase(1), Phase(1)]), notes)
    assert notes.rates == [[0.4, 3]] * 4


def test_a_rate_in_a_tensor_changes_in_place() -> None:
    module, notes = TensorRate(), Notes()
    trainer = fit(module, PhaseSchedule([Phase(1, lr=0.25), Phase(1, lr=0.125)]), notes)
    assert [rates[0] for rates in notes.rates] == [0.25, 0.25, 0.125, 0.125]
    assert trainer.optimizers[0].param_groups[0]["lr"] is module.rate


def test_phases_may_be_mappings() -> None:
    schedule = PhaseSchedule([{"epochs": 1, "lr": 0.1}, {"epochs": 2, "freeze": True}])
    assert schedule.phases == [Phase(1, lr=0.1), Phase(2, freeze=True)]


def test_the_gates_have_the_rate_of_the_phase() -> None:
    notes = Notes()
    phases = [Phase(1, gate_lr=0.5), Phase(1), Phase(1, gate_lr=0.0), Phase(1, gate_lr=0.25)]
    fit(Net(), PhaseSchedule(phases), MaskConnect(lr=0.9), notes, batches=1)
    assert notes.gate_rates == [0.5, 0.5, 0.0, 0.25]


def test_the_rate_of_gates_is_not_for_sparse_weights_beside_them() -> None:
    schedule = PhaseSchedule([Phase(1, gate_lr=0.25)])
    gates, sparse = MaskConnect(lr=1.0), DNW(density=0.5, layers=["Linear"])
    fit(Net(), schedule, gates, sparse)
    assert gates.optimizer.group["lr"] == 0.25
    with pytest.raises(MisconfigurationException, match="remove `gate_lr` from the phases"):
        fit(Net(), schedule, DNW(density=0.5, layers=["Linear"]))


def test_every_learner_is_steered_and_a_frozen_one_stays_frozen() -> None:
    learner = Learner()
    phases = [Phase(1, gate_lr=0.5), Phase(2, freeze=True), Phase(1, lr=0.1)]
    fit(Net(), EpochOf(learner), learner, PhaseSchedule(phases))
    frozen = {("freeze", None)}
    assert learner.by_epoch == {0: {("lr", 0.5)}, 1: frozen, 2: frozen, 3: frozen}


@pytest.mark.parametrize("given", [None, -1, 5])
def test_the_phases_set_max_epochs(given: int | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer = fit(Net(), PhaseSchedule(PHASES), batches=1, max_epochs=given)
    assert trainer.max_epochs == trainer.current_epoch == 5
    assert "PhaseSchedule: with" not in caplog.text


@pytest.mark.parametrize(
    ("given", "lengths"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [4, 2, 4]), (25, [10, 5, 10])]
)
def test_phases_become_shorter_or_longer_in_proportion_to_max_epochs(
    given: int, lengths: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    notes, learner = Notes(), Learner()
    phases = [Phase(2, lr=0.5), Phase(1, lr=0.25), Phase(2, lr=0.125, freeze=True)]
    schedule = PhaseSchedule(phases)
    with caplog.at_level("INFO"):
        trainer = fit(
            Net(), EpochOf(learner), learner, schedule, notes, batches=1, max_epochs=given
        )
    assert trainer.max_epochs == trainer.current_epoch == given
    rates = [[rate] * 2 for rate, n in zip([0.5, 0.25, 0.125], lengths, strict=True)
             for _ in range(n)]  # fmt: skip
    assert notes.rates == rates
    assert min(learner.by_epoch) == lengths[0] + lengths[1]  # frozen from here on
    text = f"with max_epochs={given} the phases last {lengths[0]}, {lengths[1]} and {lengths[2]}"
    assert text in caplog.text
    assert [phase.epochs for phase in schedule.phases] == [2, 1, 2]  # as they were given
    assert fit(Net(), learner, schedule, batches=1).current_epoch == 5  # the next fit


def test_shares_are_whole_positive_and_nearly_in_proportion() -> None:
    for parts in product([1, 2, 5, 14], repeat=3):
        for total in range(3, 3 * sum(parts) + 1):
            found = shares(total, parts)
            assert sum(found) == total
            assert min(found) >= 1
            exact = [Fraction(part * total, sum(parts)) for part in parts]
            if all(share.denominator == 1 for share in exact):
                assert found == exact
            if min(exact) >= 1:
                gaps = [abs(a - b) for a, b in zip(found, exact, strict=True)]
                assert max(gaps) <= 1


@pytest.mark.parametrize("given", [0, 1, 2])
def test_fewer_epochs_than_phases_are_refused(given: int) -> None:
    with pytest.raises(MisconfigurationException, match=f"3 phases need .* max_epochs={given}"):
        fit(Net(), PhaseSchedule(PHASES), max_epochs=given)


def test_max_steps_still_ends_the_run_early() -> None:
    trainer = fit(Net(), PhaseSchedule(PHASES), max_epochs=None, max_steps=3)
    assert trainer.global_step == 3


def test_a_fast_dev_run_stays_one() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*PhaseSchedule.*")
        trainer = fit(Net(), PhaseSchedule(PHASES), fast_dev_run=1)
    assert trainer.max_epochs == 1
    assert trainer.global_step == 1


def test_index_is_the_phase_of_an_epoch() -> None:
    schedule = PhaseSchedule(PHASES)
    assert schedule.max_epochs == 5
    assert [schedule.index(epoch) for epoch in range(8)] == [0, 0, 1, 2, 2, 2, 2, 2]


def test_the_phase_is_in_the_progress_bar_of_every_batch() -> None:
    notes = Notes()
    fit(Net(), notes, PhaseSchedule([Phase(2), Phase(1)]))
    assert notes.bar == [1, 1, 1, 1, 2, 2]


def test_the_start_of_a_phase_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(Net(), PhaseSchedule([Phase(2, lr=0.1), Phase(1, lr=0.5)]))
    said = [record.message for record in caplog.records if record.message.startswith("Phase ")]
    assert [line.split(":")[0] for line in said] == ["Phase 1 of 2", "Phase 2 of 2"]
    assert "lr=0.5" in said[1]


def test_a_resumed_run_is_in_its_phase_and_follows_the_config_it_is_given(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(Net(), PhaseSchedule(PHASES), saver, enable_checkpointing=True, max_epochs=5)
    notes, path = Notes(), str(tmp_path / "epoch=2.ckpt")
    longer = [Phase(2, lr=0.1), Phase(1), Phase(3, lr=0.03)]
    trainer = fit(Net(), PhaseSchedule(longer), notes, ckpt_path=path, max_epochs=6)
    assert trainer.current_epoch == 6
    assert notes.rates == [[0.03, 0.03]] * 6  # not the 0.1 of the optimizer in the checkpoint
    assert notes.bar == [3] * 6


def test_a_run_that_resumes_inside_an_epoch_is_in_its_phase_from_the_first_batch(
    tmp_path: Path,
) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(Net(), PhaseSchedule([Phase(3, lr=0.1)]), saver, enable_checkpointing=True)
    notes, learner = Notes(), Learner()
    phases = [Phase(1, lr=0.2), Phase(2, lr=0.3, gate_lr=0.5, freeze=True)]
    path = str(tmp_path / "step=3.ckpt")  # the first of two batches of the second epoch
    fit(Net(), EpochOf(learner), learner, PhaseSchedule(phases), notes, ckpt_path=path)
    assert notes.rates == [[0.3, 0.3]] * 3
    assert learner.by_epoch[1] == {("lr", 0.5), ("freeze", None)}


def test_a_scheduler_may_stay_if_the_phases_set_no_rate() -> None:
    notes = Notes()
    fit(Scheduled(), MaskConnect(), PhaseSchedule([Phase(1), Phase(1, freeze=True)]), notes)
    assert [rates[0] for rates in notes.rates] == [0.4, 0.4, 0.2, 0.2]


def test_a_scheduler_beside_rates_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="scheduler, which would overwrite it"):
        fit(Scheduled(), PhaseSchedule(PHASES))
    averaging = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    with pytest.raises(MisconfigurationException, match="would have no effect: remove"):
        fit(Net(), PhaseSchedule(PHASES), averaging)
    fit(Net(), PhaseSchedule([Phase(2)]), averaging)


@pytest.mark.parametrize("phase", [Phase(1, freeze=True), Phase(1, gate_lr=0.1)])
def test_gate_keys_need_a_learner(phase: Phase) -> None:
    with pytest.raises(MisconfigurationException, match="no callback learns a wiring"):
        fit(Net(), PhaseSchedule([Phase(1), phase]))


def test_other_stages_are_left_alone() -> None:
    class Tested(Net):
        test_step = Net.training_step

    trainer = quiet_trainer(callbacks=[PhaseSchedule([Phase(3, freeze=True)])], max_epochs=7)
    trainer.test(Tested(), DataLoader(TensorDataset(torch.randn(2, 2))), verbose=False)
    assert trainer.max_epochs == 7


@pytest.mark.parametrize(
    ("phases", "named"),
    [
        ([], "at least one phase"),
        ([{"epochs": 1}, {"epochs": 0}], "phase 2 must last at least one epoch, got 0"),
        ([{"epochs": -3}], "phase 1 must last at least one epoch, got -3"),
        ([{"epochs": 1, "lr": -0.1}], "lr of phase 1 must be a number from 0 up, got -0.1"),
        ([{"epochs": 1, "lr": math.nan}], "lr of phase 1 must be a number from 0 up, got nan"),
        ([Phase(1), Phase(1, gate_lr=-2)], "gate_lr of phase 2 must be a number from 0 up"),
        ([{"epochs": 1, "gatelr": 1}], "the keys are epochs, lr, gate_lr and freeze"),
        ([{"lr": 0.1}], "the keys are epochs, lr, gate_lr and freeze"),
        ([3], "the keys are epochs, lr, gate_lr and freeze"),
    ],
)
def test_bad_phases_are_named(phases: list[Any], named: str) -> None:
    with pytest.raises(MisconfigurationException, match=named):
        PhaseSchedule(phases)
