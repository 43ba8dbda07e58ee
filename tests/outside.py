"""A backbone and a learner as a stranger would write them: the registry has to hold for both."""

from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from wiring_lightning.callbacks import WiringCallback
from wiring_lightning.wiring import Wiring, make_wiring


class TwoLayers(nn.Module):
    """Two convolutions and a classifier, one after another."""

    def __init__(self, channels: int = 12, num_classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.classifier = nn.Linear(2 * channels * 4 * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.second(functional.relu(self.first(images))))
        return self.classifier(hidden.flatten(1))

    def wiring(self) -> Wiring:
        layers = [self.first, self.second, self.classifier]
        parameters = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        names = ["first", "second", "classifier"]
        return make_wiring(names, [0, 1], [1, 2], [True, True], parameters=parameters)

    def compact(self) -> nn.Module:
        return deepcopy(self).eval()


class LargestWeights(WiringCallback):
    """Zeroes all but the k largest weights of a layer after every step; any of them may come back.

    It keeps no copy of the others, so what comes back grows from zero by its gradient.
    """

    def __init__(self, layer: str, k: int) -> None:
        super().__init__()
        self.layer = layer
        self.k = k
        self._mask: Tensor | None = None  # once frozen
        self._hook: RemovableHandle | None = None

    def set_lr(self, lr: float) -> None:
        """The weights learn with the rate of the user's optimizer."""

    def freeze(self) -> None:
        self._mask = self._weight.detach() != 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weight = pl_module.get_submodule(self.layer).weight
        self._keep()
        self._hook = trainer.optimizers[0].register_step_post_hook(self._keep)
        super().on_fit_start(trainer, pl_module)

    def broken(self) -> str | None:
        kept = int(self._weight.count_nonzero())
        return f"{self.layer} has {kept} weights, not {self.k}" if kept > self.k else None

    def let_go(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def _keep(self, *_: Any) -> None:
        mask = self._mask
        if mask is None:
            order = self._weight.abs().flatten().argsort(descending=True, stable=True)
            mask = torch.zeros_like(order, dtype=torch.bool)
            mask[order[: self.k]] = True
        self._weight.mul_(mask.view_as(self._weight))
