"""MaskConnect under manual optimization."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from tests.callbacks.foreign_module import (
    STEPS,
    Foreign,
    Net,
    SelfMade,
    Snapshots,
    batches,
    copy_of,
    differs,
    fit,
    gates_of,
    loss_of,
    update_and_draw,
)
from tests.trainers import same_state
from wiring_lightning.callbacks import MaskConnect


class Adversaries(LightningModule):
    """Two networks with gates and opposed losses, trained by hand."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.style = style
        self.maker, self.judge = Net(classes=5), Net(classes=2)

    def losses(self, batch: tuple[Tensor, Tensor], turn: int) -> Tensor:
        real, target = batch[0], torch.zeros(len(batch[0]), dtype=torch.long)
        made = self.maker(real.flip(0))
        if turn == 0:
            return nn.functional.cross_entropy(self.judge(made), target)
        judged = self.judge(torch.cat([real, made]))  # `made` is not detached
        return nn.functional.cross_entropy(judged, torch.cat([target, target + 1]))

    def steps_now(self, turn: int, batch_idx: int) -> bool:
        """The judge may collect the gradients of two batches."""
        return turn == 0 or batch_idx % 2 == 1 or self.style != "toggle, judge accumulates"

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for turn, optimizer in enumerate(self.optimizers()):
            if self.style == "zero before":
                optimizer.zero_grad()
                self.manual_backward(self.losses(batch, turn))
                optimizer.step()
                continue
            self.toggle_optimizer(optimizer)
            self.manual_backward(self.losses(batch, turn))
            if self.steps_now(turn, batch_idx):
                optimizer.step()
                optimizer.zero_grad(set_to_none=self.style != "toggle, zeros")
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[Optimizer]:
        return [
            AdamW(self.maker.parameters(), lr=0.01),
            SGD(self.judge.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
        ]


def play_by_hand(module: Adversaries, gate_lr: float) -> None:
    """Every player's weights and gates follow its own loss only."""
    players = (module.maker, module.judge)
    scores = [[gate.scores for gate in gates_of(player)] for player in players]
    weights = [
        [p for name, p in player.named_parameters() if not name.endswith("scores")]
        for player in players
    ]
    optimizers = [
        AdamW(weights[0], lr=0.01),
        SGD(weights[1], lr=0.05, momentum=0.9, weight_decay=0.1),
    ]
    module.zero_grad()
    step = 0
    for batch_idx, batch in enumerate(batches()):
        for turn, optimizer in enumerate(optimizers):
            everything = [*weights[turn], *scores[turn]]
            gradients = torch.autograd.grad(module.losses(batch, turn), everything)
            for parameter, gradient in zip(everything, gradients, strict=True):
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
            if module.steps_now(turn, batch_idx):
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                update_and_draw(gates_of(players[turn]), gate_lr, 0, step)


@pytest.mark.parametrize(
    "style", ["zero before", "toggle", "toggle, zeros", "toggle, judge accumulates"]
)
def test_two_players_under_manual_optimization_learn_from_their_own_loss(style: str) -> None:
    module = Adversaries(style)
    start = copy_of(module)
    fit(module, MaskConnect(lr=0.3))
    learned = copy_of(module)
    module.load_state_dict(start)
    play_by_hand(module, gate_lr=0.3)
    assert {"maker.gate.scores", "judge.last.scores"} <= differs(start, learned)
    assert same_state(learned, module.state_dict())


class Alternates(Foreign):
    """Weights and scores have an optimizer and a loss each, as in DARTS; the second one is 0."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.style = style

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for factor, optimizer in zip((1, 0), self.optimizers(), strict=True):
            if self.style == "zero before":
                optimizer.zero_grad()
            else:
                self.toggle_optimizer(optimizer)
            self.manual_backward(loss_of(self.net, batch) * factor)
            optimizer.step()
            if self.style != "zero before":
                optimizer.zero_grad(set_to_none=self.style != "toggle, zeros")
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[Optimizer]:
        scores = [gate.scores for gate in gates_of(self)]
        weights = [p for name, p in self.named_parameters() if not name.endswith("scores")]
        return [SGD(weights, lr=0.1), AdamW(scores, lr=0.1)]


@pytest.mark.parametrize("style", ["zero before", "toggle", "toggle, zeros"])
def test_scores_with_an_optimizer_of_their_own_learn_from_its_loss_only(
    style: str, tmp_path: Path
) -> None:
    module = Alternates(style)
    first = [gate.scores.detach() / gate.scores.sum(1, keepdim=True) for gate in gates_of(module)]
    learner, saver = MaskConnect(lr=0.5), ModelCheckpoint(tmp_path, "one")
    fit(module, learner, saver, enable_checkpointing=True)
    assert learner.optimizer.group["steps"] == STEPS
    for gate, scores in zip(gates_of(module), first, strict=True):
        torch.testing.assert_close(gate.scores.detach(), scores)
    fit(Alternates(style), MaskConnect(lr=0.5), max_epochs=2, ckpt_path=tmp_path / "one.ckpt")


class AccumulatesByHand(Foreign):
    """Zeroes and steps after every second batch only; the scores may have their own optimizer."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.apart = apart

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.manual_backward(loss_of(self.net, batch) / 2)
        if batch_idx % 2:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> list[Optimizer]:
        named = list(self.net.named_parameters())
        first = [p for name, p in named if name.endswith("weight")]
        scores = [p for name, p in named if name.endswith("scores")]
        biases = [p for name, p in named if name.endswith("bias")]
        rest = [scores, biases] if self.apart else [[*scores, *biases]]
        return [SGD(parameters, lr=0.1) for parameters in (first, *rest)]


@pytest.mark.parametrize("apart", [True, False])
def test_gradients_that_are_accumulated_by_hand_are_not_lost(apart: bool) -> None:
    torch.manual_seed(0)
    by_hand = AccumulatesByHand(apart)
    torch.manual_seed(0)
    automatic = SelfMade(lr=0.1)
    snapshots = Snapshots()
    fit(by_hand, MaskConnect(lr=0.5), snapshots)
    fit(automatic, MaskConnect(lr=0.5), accumulate_grad_batches=2)
    for name, value in automatic.state_dict().items():
        torch.testing.assert_close(by_hand.state_dict()[name], value)
    scores = [state["net.gate.scores"] for state in snapshots.states]
    assert torch.equal(scores[1], scores[2])
    assert not torch.equal(scores[2], scores[3])
