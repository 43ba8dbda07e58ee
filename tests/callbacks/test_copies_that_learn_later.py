"""Layers that equal others at the start, and learn later, are no averages."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelCheckpoint
from torch import Tensor, nn

from tests.callbacks.averaged import ExponentialCopy, fit
from tests.callbacks.reader import Reader
from wiring_lightning.callbacks import DNW, GradualPruning, PruneAndRetrain, RigL
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners

LEARNERS: dict[str, Callable[[], Callback]] = {
    "DNW": lambda: DNW(density=0.25),
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2),
}


class Block(nn.Sequential):
    """A layer of a stack, as `nn.TransformerEncoder` copies them."""


class Other(Block):
    """The same for PyTorch, but for a learner no copy of a `Block`, which is another class."""


class Stack(Reader):
    """Its body ends in three blocks that start with the same weights; the first two are frozen."""

    def __init__(self, early: type[Block] = Block) -> None:
        super().__init__()
        blocks = [kind(nn.Linear(16, 16), nn.ReLU()) for kind in (early, early, Block)]
        for block in blocks[1:]:
            block.load_state_dict(blocks[0].state_dict())
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.body(self.first(images)).mean((2, 3))))

    def late(self) -> list[nn.Module]:
        return [self.blocks[0], self.blocks[1]]

    def configure_optimizers(self) -> Any:
        return self.make([p for p in self.parameters() if p.requires_grad])


class Pair(Stack):
    """A second network of its own, which helps the first one from the second epoch on."""

    def __init__(self, early: type[Block] = Block) -> None:
        super().__init__(early)
        del self.blocks
        self.net = Block(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.second = early(*map(deepcopy, self.net))

    def forward(self, images: Tensor) -> Tensor:
        read = self.body(self.first(images)).mean((2, 3))
        return self.head(self.net(read) + self.second(read))

    def late(self) -> list[nn.Module]:
        return [self.second]


class Thaw(BaseFinetuning):
    """Unfreezes the late parts of a network when an epoch starts."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.late())

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.late(), optimizer, lr=0.05)


class InAStep(Callback):
    """Unfreezes them in the middle of an epoch, before a step."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for part in pl_module.late():
            part.requires_grad_(False)

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        if trainer.global_step == 7:
            late = [p.requires_grad_() for part in pl_module.late() for p in part.parameters()]
            trainer.optimizers[0].add_param_group({"params": late})


class Saved(Callback):
    """The values that every step and every validation would save."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append(deepcopy(dict(pl_module.state_dict())))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        self.states.append(deepcopy(dict(pl_module.state_dict())))


def late_of(module: Any) -> list[nn.Linear]:
    return [one for part in module.late() for one in part.modules() if isinstance(one, nn.Linear)]


@pytest.mark.filterwarnings("ignore:.*only an average of the network:UserWarning")
@pytest.mark.parametrize("thaw", [Thaw, InAStep])
@pytest.mark.parametrize("kind", [Stack, Pair])
@pytest.mark.parametrize("name", LEARNERS)
def test_what_learns_later_learns_as_if_it_had_never_been_a_copy(
    name: str, kind: type[Stack], thaw: type[Callback], caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = Saved(), Saved()
    with caplog.at_level("INFO"):
        module = fit(LEARNERS[name](), thaw(), ours, module=kind())
    assert not [line for line in caplog.messages if "is an average" in line]
    for layer in late_of(module):
        assert layer.weight.all()
        assert layer.weight.requires_grad
    fit(LEARNERS[name](), thaw(), theirs, module=kind(Other))
    for state, expected in zip(ours.states, theirs.states, strict=True):
        for key, value in expected.items():
            assert torch.equal(state[key], value), key


def test_a_run_that_resumes_before_they_learn_ends_as_the_whole_one(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(DNW(density=0.25), Thaw(), saver, module=Stack(), enable_checkpointing=True)
    path = tmp_path / "epoch=0.ckpt"
    resumed = fit(DNW(density=0.25), Thaw(), module=Stack(), ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


class Averaged(Stack):
    """Keeps an average of all of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.ema: Any = ExponentialCopy(self.blocks)

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update(self.blocks)


@pytest.mark.filterwarnings("ignore:.*only an average of the network:UserWarning")
@pytest.mark.parametrize("thaw", [Thaw, InAStep])
def test_a_true_average_of_them_gets_the_wiring(thaw: type[Callback]) -> None:
    module: Any = fit(DNW(density=0.25), thaw(), module=Averaged())
    own, averaged = ([part[0].weight for part in one] for one in (module.blocks, module.ema.module))
    counts = [int(weight.count_nonzero()) for weight in averaged]
    assert counts == [int(weight.count_nonzero()) for weight in own] == [256, 256, 64]
    assert not torch.equal(own[2], averaged[2])


class Becomes(Averaged):
    """Its average learns by itself from the second epoch on."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 0 * self.ema.module[2][0].weight.sum()

    def late(self) -> list[nn.Module]:
        return [self.ema]

    def on_train_batch_end(self, *_: Any) -> None:
        if self.current_epoch == 0:
            super().on_train_batch_end()


@pytest.mark.parametrize("thaw", [Thaw, InAStep])
def test_an_average_that_learns_later_is_none_any_more(thaw: type[Callback]) -> None:
    module: Any = fit(DNW(density=0.25), thaw(), module=Becomes())
    assert int(module.ema.module[2][0].weight.count_nonzero()) > 64


class Rows(Callback):
    """The layers in the table at the end of a fit."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (learner,) = find_sparse_learners(trainer)
        self.names = [row.name for row in learner.layer_costs(trainer, pl_module)]


def test_equal_layers_that_are_frozen_are_named_and_counted_once_they_learn() -> None:
    rows = Rows()
    said = r"blocks.0, blocks.1 start with the weights of others that learn, and no optimizer"
    with pytest.warns(UserWarning, match=said):
        fit(DNW(density=0.25), Thaw(), rows, module=Stack())
    blocks = [f"blocks.{number}.0" for number in range(3)]
    assert rows.names == ["first", "body.1", "head", *blocks]


@pytest.mark.filterwarnings("ignore:.*only an average of the network:UserWarning")
def test_new_optimizers_of_a_learner_count_too() -> None:
    """`PruneAndRetrain` makes them when its first epochs are over."""

    class Later(InAStep):
        def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
            if trainer.global_step == 7 and pl_module.blocks[0][0].weight.grad is None:
                super().on_before_backward(trainer, pl_module, loss)

    module: Any = fit(PruneAndRetrain(1, density=0.25), Later(), module=Stack())
    assert [int(block[0].weight.count_nonzero()) for block in module.blocks] == [256, 256, 64]
