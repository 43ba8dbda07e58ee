"""A fixed random choice of weights for any LightningModule."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_seed
from wiring_lightning.callbacks.sparse_layers import SparseGroup, SparseLayers
from wiring_lightning.functional import derived_seed, mask_largest
from wiring_lightning.optim import MaskedWeights


class RandomEdges(SparseLayers[MaskedWeights]):
    """Keep k random weights from the start, and train only these (RG of DNW, Tables 1 to 3).

    The paper's main baseline: every weight gets a random rank, and the k highest are the edges. The
    other weights stay zero. Graphs (`nn.Adjacency`) are frozen. A network that is built with
    `wiring="random"` has random edges without this callback.

    Args:
        seed: seed of the random ranks.
        choice: the other arguments of `SparseLayers`, such as density and layers.

    Raises:
        MisconfigurationException: as for `SparseLayers`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RandomEdges(density=0.1, seed=3)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    masks_gradients = True
    freezes_itself = True

    def __init__(self, seed: int = 0, **choice: Any) -> None:
        super().__init__(freeze_epoch=None, **choice)
        check_seed(seed, error=self.mistake)
        self.seed = seed

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        return {**super().kept_arguments, "seed": self.seed}

    @override
    def make_rule(self, optimizer: Optimizer, groups: Sequence[SparseGroup]) -> MaskedWeights:
        for group in groups:
            group.fill_in()
        weights = [weight for group in groups for weight in group.weights]
        masks: list[Tensor | None] = [None] * len(weights)
        if self._restored is None:  # otherwise `on_fit_start` loads the masks of the resumed run
            masks = [mask for group in groups for mask in self._draw(group)]
        return MaskedWeights(optimizer, weights, masks)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self.freeze()

    def _draw(self, group: SparseGroup) -> list[Tensor]:
        """For each parameter a mask of k random entries in the whole group."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, *group.name.encode()))
        ranks = [
            # On the CPU, so that the ranks are the same for all devices.
            torch.rand(weight.shape, generator=generator, device="cpu").to(weight.device)
            for weight in group.weights
        ]
        return mask_largest(ranks, group.k, group.usable, group.least)
