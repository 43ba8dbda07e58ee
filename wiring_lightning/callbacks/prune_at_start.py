"""Pruning once, at the start, as callbacks for any LightningModule."""

from typing import Any

from wiring_lightning.callbacks.scheduled_masks import MaskSchedule
from wiring_lightning.callbacks.sparse_layers import Distribution
from wiring_lightning.optim.scheduled_masks import First


class PruneAtStart(MaskSchedule):
    """Keep the k weights of largest magnitude from the start, and train only these.

    For weights that have been trained (`callbacks.WarmStart`, or weights of your own) this is
    one-shot magnitude pruning with fine-tuning.

    Args:
        first: how the weights are chosen: by `magnitude`, by `sensitivity` or at `random`.
        until: the share of the training until which masks change, as those of `MaskSchedule` do;
            0, the default, if they never do.
        choice: the other arguments of `MaskSchedule` and `SparseLayers`, such as density, layers
            and `distribution="global"`.

    Raises:
        MisconfigurationException: as for `SparseLayers`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PruneAtStart(density=0.1)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, first: First = "magnitude", until: float = 0.0, **choice: Any) -> None:
        super().__init__(first=first, until=until, **choice)


class SNIP(PruneAtStart):
    """Keep the k weights to which the loss is most sensitive, and train only these (SNIP).

    The sensitivity of a weight is `|g w|`, with the gradient `g` of the first optimizer step: of
    one batch, or of all that are accumulated for it, on all ranks. The network is dense until then,
    and that step already moves the chosen weights only. If a sparse weight has no gradient in it,
    the next step that has all of them decides.

    Args:
        first: how the weights are chosen.
        distribution: as for `SparseLayers`; in the paper all layers compete (`global`).
        min_edges: how many weights every layer keeps at least.
        choice: the other arguments of `PruneAtStart` and `SparseLayers`, such as density.

    Raises:
        MisconfigurationException: as for `SparseLayers`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[SNIP(density=0.05)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        first: First = "sensitivity",
        distribution: Distribution = "global",
        min_edges: int = 1,
        **choice: Any,
    ) -> None:
        super().__init__(first=first, distribution=distribution, min_edges=min_edges, **choice)
