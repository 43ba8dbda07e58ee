"""Averages that hooks write into the network for an evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from tests.callbacks.reader import Gated, Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    GradualPruning,
    MaskConnect,
    NMSparsity,
    PruneAndRetrain,
    RandomEdges,
    RigL,
    TargetedDropout,
    WiringError,
)


class Average:
    """An average as a list of tensors, as torch_ema and diffusers keep it."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter, 0.1)

    def swap_in(self) -> None:
        self.kept = [p.detach().clone() for p in self.parameters]
        self._write(self.values)

    def swap_out(self) -> None:
        self._write(self.kept)

    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data.copy_(value)


class Averaged(Reader):
    """Evaluates an average that its own hooks swap with the weights; it averages the `averaged`."""

    averaged: Callable[[str], bool] = staticmethod(lambda name: True)

    def on_fit_start(self) -> None:
        own = [p for name, p in self.named_parameters() if type(self).averaged(name)]
        self.average = Average(own)

    def on_train_batch_end(self, *_: Any) -> None:
        self.average.update()

    def on_test_epoch_start(self) -> None:
        self.average.swap_in()

    def on_test_epoch_end(self) -> None:
        self.average.swap_out()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)


class Validated(Averaged):
    def on_validation_epoch_start(self) -> None:
        self.average.swap_in()

    def on_validation_epoch_end(self) -> None:
        self.average.swap_out()


class ScheduleFree(Reader):
    """Its optimizer has other weights in evaluation; this is what they are about."""

    def on_validation_epoch_start(self) -> None:
        for parameter in self.parameters():
            parameter.data.add_(0.01)


class AveragedGate(Gated, Averaged):
    pass


class ValidatedGate(Gated, Validated):
    pass


class Weights(ValidatedGate):
    averaged = staticmethod(lambda name: not name.endswith("scores"))


class Swaps(Callback):
    """An average of a callback, with the hooks of NeMo's."""

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.average = Average(module.parameters())

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.average.update()

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.average.swap_in()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.average.swap_out()


def fit(*callbacks: Callback, module: Reader, **kwargs: Any) -> Any:
    data = DataLoader(batches(4, torch.float32), batch_size=None)
    settings = {"max_epochs": 2, "limit_val_batches": 2, **kwargs}
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, data, data)
    return trainer, data


LEARNERS: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.1),
    "RigL": lambda: RigL(density=0.1, delta_t=1),
    "TargetedDropout": lambda: TargetedDropout(density=0.1),
    "NMSparsity": lambda: NMSparsity(2, 4),
    "GradualPruning": lambda: GradualPruning(density=0.1, every=1),
    "PruneAndRetrain": lambda: PruneAndRetrain(1, density=0.1),
}
SENTENCE = r"(weights, not|in a block).*A hook has written them when the evaluation began"


@pytest.mark.parametrize("by", ["module", "callback"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_denser_average_is_not_validated(learner: str, by: str) -> None:
    module, others = (Validated(), []) if by == "module" else (Reader(), [Swaps()])
    with pytest.raises(WiringError, match=SENTENCE):
        fit(LEARNERS[learner](), *others, module=module)
    dense = 1 if learner == "PruneAndRetrain" else 0  # epochs, which are validated
    assert len(module.validated) == 2 * dense


def test_weights_of_a_schedule_free_optimizer_are_not_validated() -> None:
    module = ScheduleFree()
    with pytest.raises(WiringError, match=SENTENCE):
        fit(TargetedDropout(density=0.1), module=module)
    assert module.validated == []


@pytest.mark.parametrize("gates", [False, True])
def test_neither_is_it_tested(gates: bool) -> None:
    learner = MaskConnect(lr=0.5) if gates else LEARNERS["GradualPruning"]()
    module = AveragedGate() if gates else Averaged()
    trainer, data = fit(learner, module=module, limit_val_batches=0)
    with pytest.raises(WiringError, match="A hook has written them"):
        trainer.test(module, data, verbose=False)
    assert module.validated == []


@pytest.mark.parametrize("callbacks", [[], [Swaps()]])
def test_scores_that_are_averaged_are_not_validated(callbacks: list[Callback]) -> None:
    for order in ([MaskConnect(lr=0.5), *callbacks], [*callbacks, MaskConnect(lr=0.5)]):
        module = Gated() if callbacks else ValidatedGate()
        with pytest.raises(WiringError, match=r"MaskConnect: the scores of 1 of the gates are not"):
            fit(*order, module=module)
        assert module.validated == []


def test_an_average_with_the_wiring_of_the_network_is_validated() -> None:
    for learner, module in (
        (RandomEdges(density=0.1), Validated()),
        (MaskConnect(lr=0.5), Weights()),
        (MaskConnect(lr=0.5, freeze_epoch=0), ValidatedGate()),
    ):
        trainer, data = fit(learner, module=module)
        trainer.test(module, data, verbose=False)
        assert len(module.validated) == 8  # four batches were tested


def test_a_denser_checkpoint_is_told_once_and_an_average_of_it_refused(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Tested(Averaged):
        writes = False

        def on_test_epoch_start(self) -> None:
            if self.writes:
                self.average.swap_in()

        def on_test_epoch_end(self) -> None:
            pass

    module = Tested()
    trainer, data = fit(LEARNERS["GradualPruning"](), module=module, max_epochs=1)
    earlier = tmp_path / "earlier.ckpt"
    trainer.save_checkpoint(earlier)
    state = torch.load(earlier, weights_only=True)
    state["state_dict"]["head.weight"].fill_(1.0)
    torch.save(state, earlier)
    with caplog.at_level("INFO"):
        trainer.test(module, data, ckpt_path=earlier, weights_only=True, verbose=False)
    assert sum("not as sparse as asked for" in line for line in caplog.messages) == 1
    module.writes = True
    with pytest.raises(WiringError, match="A hook has written them"):
        trainer.test(module, data, ckpt_path=earlier, weights_only=True, verbose=False)
