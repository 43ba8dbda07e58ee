"""A small module that has never heard of wirings, and its training written out by hand."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.optim import SGD
from torch.utils.data import DataLoader

from tests.trainers import quiet_trainer
from wiring_lightning.nn import Adjacency, Gate

MAKE = partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
Batch = tuple[Tensor, Tensor]
Masks = dict[str, Tensor]


class Reader(LightningModule):
    """Reads images of one channel; `first`, `body.1` and `head` are what can be sparse."""

    def __init__(self, make: Any = MAKE) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        conv = nn.Conv2d(8, 16, 3, padding=1)
        self.body = nn.Sequential(nn.GroupNorm(1, 8), conv, nn.GroupNorm(1, 16), nn.ReLU())
        self.head = nn.Linear(16, 10)
        self.make = make
        self.validated: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.first(images)).mean((2, 3)))

    def training_step(self, batch: Batch, _: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated.append(edges(self.body[1]))

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


class GraphReader(Reader):
    """Its body is a graph: from lower to higher channels only, 20 edges of 120."""

    def __init__(self, make: Any = MAKE) -> None:
        super().__init__(make)
        self.graph = Adjacency(torch.ones(16, 16, dtype=torch.bool).tril(-1), edges=20)
        self.body.append(self.graph)


class Gated(Reader):
    """Its channels pass through a gate before the head."""

    def __init__(self) -> None:
        super().__init__(partial(SGD, lr=0.3))
        self.gate = Gate(targets=4, candidates=4, fan_in=2)

    def forward(self, images: Tensor) -> Tensor:
        sources = self.body(self.first(images)).mean((2, 3)).unflatten(1, (4, 4))
        return self.head(self.gate(sources).flatten(1))


SPARSE = ("first.weight", "body.1.weight", "head.weight")


def edges(layer: nn.Module) -> int:
    return int((layer.weight != 0).sum())


def batches(count: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 8, 1, 6, 6, generator=generator).to(dtype)
    labels = torch.randint(10, (count, 8), generator=generator)
    return list(zip(images, labels, strict=True))


class Loader:
    """Batches in their order; a checkpoint of Lightning keeps how many of them were there."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.position = batches, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        first = self.position % len(self)
        for number, batch in enumerate(self.batches[first:], first + 1):
            self.position = number
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Watch(Callback):
    """The weights that every step trains with, and those that a fit ends with."""

    def __init__(self) -> None:
        self.before: list[Masks] = []
        self.after: Masks = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.before.append(_weights(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after = _weights(pl_module)

    def masks(self) -> Iterator[Masks]:
        for weights in self.before:
            yield {name: weight != 0 for name, weight in weights.items()}


def _weights(module: nn.Module) -> Masks:
    return {name: p.detach().clone() for name, p in module.named_parameters() if "weight" in name}


def fit(
    callback: Callback, module: Reader | None = None, steps: int = 6, **kwargs: Any
) -> tuple[Reader, Watch]:
    """Train on the same few batches in every epoch, in float64 unless `precision` is given."""
    module = module or Reader()
    watch = Watch()
    callbacks = [callback, *kwargs.pop("callbacks", []), watch]
    data = kwargs.pop("data", batches(steps))
    resume = kwargs.pop("resume", None)
    trainer = quiet_trainer(**{"precision": "64-true", "callbacks": callbacks, **kwargs})
    plain = DataLoader(data, batch_size=None)
    loader = Loader(data) if isinstance(data, list) else plain
    validation = plain if kwargs.get("limit_val_batches") else None
    trainer.fit(module, loader, validation, ckpt_path=resume, weights_only=True)
    return module, watch


def by_hand(
    masks_at: Callable[[int, Masks], Masks],
    module: Reader | None = None,
    data: list[Batch] | None = None,
    penalty: float = 0.0,
    clip: float | None = None,
    make: Any = MAKE,
) -> tuple[Masks, Masks]:
    """Train dense weights through masks with plain autograd.

    Args:
        masks_at: from the number of the step and the dense weights to the masks of sparse layers.
        module: what is trained; fresh if not given.
        data: one batch for every step.
        penalty: of an L1 term on what the masks leave.
        clip: norm to clip the gradients at.
        make: the optimizer.

    Returns:
        The dense weights after the last step, and the masks of the next one.
    """
    module = module or Reader().double()
    parameters = dict(module.named_parameters())
    optimizer = make(parameters.values())
    data = batches(6) if data is None else data
    for step, (images, labels) in enumerate(data):
        masks = masks_at(step, parameters)
        used = {n: p * masks[n] if n in masks else p for n, p in parameters.items()}
        loss = functional.cross_entropy(functional_call(module, used, images), labels)
        loss = loss + penalty * sum(used[name].abs().sum() for name in masks)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(list(parameters.values()), clip)
        optimizer.step()
    return parameters, masks_at(len(data), parameters)


def largest(weight: Tensor, k: int) -> Tensor:
    """A mask of the k largest magnitudes, by sorting."""
    order = weight.detach().abs().flatten().argsort(descending=True)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[:k]] = True
    return mask.view(weight.shape)


def assert_same(watch: Masks, expected: Masks, masks: Masks) -> None:
    for name, weight in expected.items():
        if name in watch:
            product = weight * masks[name] if name in masks else weight
            torch.testing.assert_close(watch[name], product.detach(), atol=1e-12, rtol=1e-9)


def check_resuming(
    make: Callable[[], Callback], folder: Path, at: int, module: type[Reader] = Reader, **kw: Any
) -> None:
    """A run that resumes after a step ends as the uninterrupted one, bit for bit."""
    kw = {"data": batches(4, torch.float32), "max_epochs": 2, "precision": "32-true"} | kw
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, _ = fit(make(), module(), callbacks=[saver], enable_checkpointing=True, **kw)
    resumed, _ = fit(make(), module(), resume=folder / f"step={at}.ckpt", **kw)
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)
