"""Strategies that give each process a part of the weights are refused."""

from collections.abc import Callable

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)

from tests.callbacks.reader import Reader
from tests.methods import digits, named
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import (
    DNW,
    BudgetedSearch,
    L1Anneal,
    MaskConnect,
    NoUpdateRule,
    PruneAndRetrain,
    RandomEdges,
    TargetedDropout,
)

LEARNERS: list[Callable[[], Callback]] = [
    MaskConnect,
    lambda: BudgetedSearch(budget=1e5),
    lambda: DNW(density=0.5),
    lambda: NoUpdateRule(density=0.5),
    lambda: RandomEdges(density=0.5),
    lambda: L1Anneal(density=0.5),
    lambda: TargetedDropout(density=0.5),
    lambda: PruneAndRetrain(1, density=0.5),
]


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda make: type(make()).__name__)
def test_every_learner_refuses_sharded_weights(
    learner: Callable[[], Callback], strategy: type[Strategy]
) -> None:
    callback = learner()
    trainer = quiet_trainer(callbacks=[callback])
    # Not built by its constructor: FSDP wants a GPU, and DeepSpeed is a package of its own.
    trainer._accelerator_connector.strategy = object.__new__(strategy)
    with pytest.raises(MisconfigurationException) as refused:
        callback.setup(trainer, Reader(), "fit")
    said = str(refused.value)
    assert said.startswith(f"{type(callback).__name__}: {strategy.__name__} ")
    assert "strategy=ddp" in said
    callback.setup(trainer, Reader(), "test")  # nothing is learned there


def test_it_is_said_before_anything_is_trained() -> None:
    strategy = ModelParallelStrategy(1, 1)  # works on a CPU
    trainer = quiet_trainer(callbacks=[MaskConnect()], strategy=strategy)
    strategy.setup_environment = lambda: None  # would open a process group
    task = named("resnext-learned").task()
    with pytest.raises(MisconfigurationException, match="ModelParallelStrategy gives each"):
        trainer.fit(task, digits())
    assert trainer.global_step == 0


def test_ddp_is_not_refused() -> None:
    callback = DNW(density=0.5)
    trainer = quiet_trainer(callbacks=[callback])
    trainer._accelerator_connector.strategy = DDPStrategy()
    callback.setup(trainer, Reader(), "fit")
