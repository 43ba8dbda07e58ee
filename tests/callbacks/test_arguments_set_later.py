"""An argument that is set between two fits counts in the next one."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.callbacks.reader import Gated, Reader, batches
from tests.callbacks.test_combinations import count, fit
from tests.callbacks.test_other_order import LEARNERS as SPARSE
from tests.callbacks.tiny_super_network import BUDGET, fit as search, new_module, new_search
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import DNW, MaskConnect, NMSparsity, RigL

BATCHES: Any = batches(4, torch.float32)
DATA: Any = torch.utils.data.DataLoader(BATCHES, batch_size=None)


@pytest.mark.parametrize("name", ["DNW", "DNW, global", "RandomEdges", "after the pruning", "RigL"])
def test_density_falls_from_fit_to_fit(name: str) -> None:
    learner: Any = SPARSE[name]()
    module = Reader()
    for density in (0.5, 0.25, 0.125):
        learner.density = density
        fit(learner, module=module, max_epochs=6)
        whole = [layer.weight for layer in (module.first, module.body[1], module.head)]
        kept = sum(int(weight.count_nonzero()) for weight in whole)
        assert kept == density * sum(weight.numel() for weight in whole)


def test_other_choices_count_too() -> None:
    learner = DNW(density=0.5)
    learner.density, learner.edges = None, 10
    assert count(fit(learner, max_epochs=1).body[1]) == 10
    learner.edges, learner.density = None, {"head": 0.5}
    module = fit(learner, max_epochs=1)
    assert (count(module.body[1]), count(module.head)) == (1152, 80)
    learner.density = {"body.1": 0.25, "head": 0.25}
    module = fit(learner, max_epochs=1)
    assert (count(module.body[1]), count(module.head)) == (288, 40)
    learner.density, learner.layers, learner.distribution = 0.25, "head", "global"
    module = fit(learner, max_epochs=1)
    assert (count(module.body[1]), count(module.head)) == (1152, 40)
    learner.density = 2.0
    with pytest.raises(MisconfigurationException, match="density must be above 0 and at most 1"):
        fit(learner, max_epochs=1)


def test_the_blocks_of_the_next_fit() -> None:
    learner = NMSparsity(2, 4)
    assert count(fit(learner, max_epochs=1).body[1]) == 576
    learner.n = 1
    assert count(fit(learner, max_epochs=1).body[1]) == 288
    assert learner.summary().startswith("2 layers, 1,312 -> 328 weights")


def test_a_fit_that_goes_on_does_not_change_its_density() -> None:
    learner, module = RigL(density=0.5, delta_t=2), Reader()
    trainer = quiet_trainer(callbacks=[learner], max_epochs=2)
    trainer.fit(module, DATA)
    trainer.fit_loop.max_epochs = 4
    learner.density = 0.25
    message = (
        "RigL: the last fit of this trainer had 36 edges in first, but 18 are asked for now; go on "
        "with the same choice of layers and edges, of which the same learn, or use a new Trainer."
    )
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, DATA)


def test_the_next_fit_has_the_rate_that_was_set() -> None:
    learner = MaskConnect(lr=0.1)
    fit(learner, module=Gated(), max_epochs=1)
    learner.set_lr(0.9)
    fit(learner, module=Gated(), max_epochs=1)
    assert learner.optimizer is not None
    assert (learner.lr, learner.optimizer.group["lr"]) == (0.9, 0.9)


def test_the_next_search_has_the_cost_that_was_set() -> None:
    learner = new_search(cost="sequential_steps", budget=2)
    search(new_module(), learner, max_epochs=1)
    learner.cost, learner.budget = "parameters", BUDGET
    fresh = new_search(cost="parameters", budget=BUDGET)
    ends = []
    for each in (learner, fresh):
        module = new_module()
        search(module, each, max_epochs=1)
        ends.append(module.state_dict())
    assert same_state(*ends)
    learner.cost = "metres"  # type: ignore[assignment]
    with pytest.raises(MisconfigurationException, match="metres"):
        search(new_module(), learner, max_epochs=1)
