"""Masks of layers that get no gradient for a while."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.nn import functional

from tests.callbacks.reader import Batch, Reader, fit
from tests.callbacks.test_scheduled_masks import PLAIN
from wiring_lightning.callbacks import SET, SNIP, MaskSchedule, RigL


class TwoHeads(Reader):
    """Has no loss in the first step; its second head is used in the third."""

    def __init__(self) -> None:
        super().__init__(PLAIN)
        self.other = nn.Linear(16, 10)

    def training_step(self, batch: Batch, index: int) -> Any:
        features = self.body(self.first(batch[0])).mean((2, 3))
        answer = self.head(features) + (self.other(features) if index > 1 else 0)
        return functional.cross_entropy(answer, batch[1]) if index else None


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_snip_waits_until_all_have_a_gradient() -> None:
    with pytest.warns(UserWarning, match=r"SNIP: first.weight, body.1.weight, .* had no gradient"):
        _, watch = fit(SNIP(density=0.1), TwoHeads())
    kept = [sum(int(weights[n].count_nonzero()) for n in weights if weights[n].dim() > 1)
            for weights in watch.before]  # fmt: skip
    assert kept == [1544] * 3 + [154] * 3
    assert int(watch.after["other.weight"].count_nonzero()) > 5


class FreezeHead(Callback):
    """Freezes the head in the second epoch, as methods of fine-tuning do."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.head.requires_grad_(trainer.current_epoch != 1)


@pytest.mark.parametrize("distribution", ["uniform", "global"])
@pytest.mark.parametrize(
    "make",
    [partial(RigL, delta_t=1, alpha=0.5), partial(SET, unit="step"), partial(
        MaskSchedule, fraction=0.3, grow="momentum", drop="sensitivity", every=1)],
)  # fmt: skip
def test_what_does_not_learn_for_a_while_keeps_its_weights(make: Any, distribution: Any) -> None:
    learner = make(density=0.25, distribution=distribution, total_steps=99)
    _, watch = fit(learner, Reader(PLAIN), steps=3, max_epochs=3, callbacks=[FreezeHead()])
    head = [weights["head.weight"] for weights in watch.before]
    body = [weights["body.1.weight"] != 0 for weights in watch.before]
    assert torch.equal(head[3], head[6])
    assert not torch.equal(body[3], body[6])
    assert not torch.equal(head[6], watch.after["head.weight"])
