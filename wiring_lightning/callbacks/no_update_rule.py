"""DNW without its update rule: the ablation of Table 2."""

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.dnw import DNW
from wiring_lightning.optim import StraightThrough, mask_gradients


class NoUpdateRule(DNW):
    """Choose the k largest weights as `DNW` does, but give absent ones no gradient (DNW, Table 2).

    Absent weights still change by their remaining momentum and by weight decay. An edge is replaced
    when its magnitude falls below that of an absent weight.

    Arguments and errors are those of `DNW`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[NoUpdateRule(density=0.1)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        for rule in self.rules_of(optimizer, StraightThrough):
            weights = [weight for edges in rule.edge_sets for weight in edges.weights]
            mask_gradients(weights, rule.masks)
