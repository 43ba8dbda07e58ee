"""Fits with averages of the weights, and the averages computed by hand."""

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.optim import SGD

from tests.callbacks.reader import MAKE, Reader, batches
from tests.trainers import quiet_trainer


class History(Callback):
    """The weights after every step, before any other callback can write over them."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(values_of(pl_module))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        self.validated.append(values_of(pl_module))


def values_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def mean(seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([values[name] for values in seen]).mean(0) for name in seen[0]}


def ema(seen: list[dict[str, Tensor]], decay: float = 0.7) -> dict[str, Tensor]:
    average = dict(seen[0])
    for values in seen[1:]:
        average = {n: average[n] * decay + values[n] * (1 - decay) for n in average}
    return average


AVERAGES = {
    "mean": (WeightAveraging, mean),
    "EMA": (lambda: EMAWeightAveraging(decay=0.7), ema),
}


def fit(*callbacks: Callback, module: Reader | None = None, **kwargs: Any) -> Reader:
    module = module or Reader(partial(SGD, lr=0.3, momentum=0.9))
    settings = {"max_epochs": 3, "limit_val_batches": 1, **kwargs}
    resume = settings.pop("ckpt_path", None)
    data = torch.utils.data.DataLoader(batches(5, torch.float32), batch_size=None)
    trainer = quiet_trainer(callbacks=list(callbacks), **settings)
    trainer.fit(module, data, data, ckpt_path=resume, weights_only=True)
    return module


class Normalized(Reader):
    """With batch norm in place of group norm."""

    def __init__(self, make: Any = MAKE) -> None:
        super().__init__(make)
        self.body = nn.Sequential(nn.BatchNorm2d(8), self.body[1], nn.BatchNorm2d(16), nn.ReLU())


class ExponentialCopy(nn.Module):
    """A moving average as timm's `ModelEmaV3` keeps it."""

    def __init__(self, model: nn.Module, decay: float = 0.7) -> None:
        super().__init__()
        self.module, self.decay = deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        ours, theirs = self.module.state_dict(), model.state_dict()
        for mine, other in zip(self.module.parameters(), model.parameters(), strict=True):
            mine.lerp_(other, 1 - self.decay)
        assert list(ours) == list(theirs)


class Inside(Reader):
    """Keeps a copy of its network as a part of itself, from the start or from the fit on."""

    def __init__(self, late: bool = False) -> None:
        super().__init__()
        self.net = Reader()
        del self.first, self.body, self.head
        self.late = late
        self.ema = None if late else ExponentialCopy(self.net)
        self.validated_copies: list[int] = []

    def on_fit_start(self) -> None:
        if self.late:
            self.ema = ExponentialCopy(self.net)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update(self.net)

    def validation_step(self, batch: Any, _: int) -> None:
        weight = self.ema.module.body[1].weight
        self.validated_copies.append(int(weight.count_nonzero()))

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())
