"""Optimizers that wrap others, and networks that are packed at the end of a fit."""

from collections import OrderedDict, defaultdict
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

import wiring_lightning as wl
from tests.callbacks.tiny_super_network import Batches, new_module, new_search
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, MaskConnect
from wiring_lightning.callbacks._gate_learner import GateLearner
from wiring_lightning.nn import Gate


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 4, generator=generator)
    return DataLoader(TensorDataset(images, (images.sum(1) > 0).long()), batch_size=16)


class Gated(LightningModule):
    """Trained by a wrapper that does not call its parent's `__init__`, as timm's Lookahead."""

    def __init__(self, wrapped: bool) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.first, self.gate, self.out = nn.Linear(4, 12), Gate(3, 3, 1), nn.Linear(12, 2)

    @override
    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        hidden = self.gate(self.first(batch[0]).relu().unflatten(1, (3, 4))).flatten(1)
        return nn.functional.cross_entropy(self.out(hidden), batch[1])

    @override
    def configure_optimizers(self) -> Optimizer:
        base = SGD(self.parameters(), lr=0.1)
        return Wrapper(base) if self.wrapped else base


class Wrapper(Optimizer):
    def __init__(self, base: Optimizer) -> None:
        self._optimizer_step_pre_hooks = OrderedDict[int, Any]()
        self._optimizer_step_post_hooks = OrderedDict[int, Any]()
        self.base, self.param_groups, self.defaults = base, base.param_groups, base.defaults
        self.state = defaultdict(dict)

    @override
    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


def test_gates_learn_beside_an_optimizer_that_wraps_another() -> None:
    found = []
    for wrapped in (False, True):
        torch.manual_seed(0)
        module = Gated(wrapped)
        before = module.gate.scores.detach().clone()
        quiet_trainer(max_epochs=2, callbacks=[MaskConnect(lr=0.5)]).fit(module, data())
        assert not torch.equal(module.gate.scores.detach(), before)
        found.append(module.state_dict())
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value)


class WithListsOfItsOwn(Optimizer):
    """The lists of what it wraps are others, as in torch's ZeroRedundancyOptimizer."""

    def __init__(self, parameters: Any, in_list: bool) -> None:
        parameters = list(parameters)
        super().__init__(parameters, {})
        base = SGD(parameters, lr=0.1)
        self.base = [SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), base] if in_list else base

    @override
    def step(self, closure: Any = None) -> Any:
        last = self.base[-1] if isinstance(self.base, list) else self.base
        return last.step(closure)


@pytest.mark.parametrize("in_list", [False, True])
@pytest.mark.parametrize("learner", [MaskConnect(), new_search()], ids=["scores", "logits"])
def test_an_optimizer_that_keeps_what_is_learned_is_refused(
    learner: GateLearner[Any], in_list: bool
) -> None:
    module: Any = Gated(wrapped=False) if isinstance(learner, MaskConnect) else new_module()
    own = learner.learned
    given = [p for _, p in module.named_parameters()]
    module.configure_optimizers = lambda: WithListsOfItsOwn(given, in_list)
    batches = data() if isinstance(learner, MaskConnect) else Batches()
    with pytest.raises(MisconfigurationException) as refused:
        quiet_trainer(callbacks=[learner]).fit(module, batches)
    assert str(refused.value) == (
        f"{type(learner).__name__}: WithListsOfItsOwn keeps the {own} of the gates in lists of its "
        f"own, and would move them, too: give it the parameters without these {own}."
    )
    given[:] = [p for name, p in module.named_parameters() if not name.endswith(own)]
    quiet_trainer(callbacks=[learner], max_epochs=1).fit(module, batches)  # as told


class Packed(LightningModule):
    """Packs, quantises or renames its layers when it is trained."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end
        self.net = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))
        self.alias = self.net[0]

    @override
    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    @override
    def configure_optimizers(self) -> Optimizer:
        return SGD(self.parameters(), lr=0.1)

    @override
    def on_fit_end(self) -> None:
        if self.end == "packed":
            self.net = wl.nn.store_sparse(self.net, torch.randn(1, 4))
        if self.end == "deep copy":
            self.net = nn.Sequential(nn.Flatten(), *self.net)
        if self.end == "alias":
            del self.alias


@pytest.mark.parametrize("end", ["packed", "deep copy", "alias"])
def test_layers_may_be_replaced_when_the_fit_is_over(end: str) -> None:
    module = Packed(end)
    quiet_trainer(max_epochs=1, callbacks=[DNW(density=0.3)]).fit(module, data())
    dense = wl.nn.store_dense(module.net) if end == "packed" else module.net
    weights = [value for name, value in dense.state_dict().items() if "weight" in name]
    assert sum(int(weight.count_nonzero()) for weight in weights) <= round(0.3 * (48 + 24))
