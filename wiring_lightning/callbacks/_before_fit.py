"""What was there before a fit, for a fit that ends before its first step."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from wiring_lightning.callbacks._copies import Group
from wiring_lightning.nn import Adjacency


class BeforeFit:
    """A learner, and what it changes in a network, as they were before a fit.

    Args:
        learner: the learner, in its `setup`.
        trainer: the trainer of the fit.
    """

    def __init__(self, learner: object, trainer: Trainer) -> None:
        self._attributes: dict[str, Any] | None = dict(vars(learner))
        self._optimizers: Sequence[object] = trainer.optimizers
        self._groups: list[tuple[Group, list[Tensor]]] = []
        self._ways_back: list[Callable[[], None]] = []

    def keep(self, groups: Iterable[Group], graphs: Iterable[Adjacency] = ()) -> None:
        """Keep the values of tensors, on the CPU, where they take no memory of an accelerator."""
        for group in groups:
            values = [place.tensor.to("cpu", copy=True) for place in group]
            self._groups.append((group, values))
        self._ways_back = [graph.way_back() for graph in graphs]

    @property
    def has_kept(self) -> bool:
        """Whether the learner came so far that it may have changed the network."""
        return bool(self._groups)

    def is_loaded_by_the_fit(self, trainer: Trainer) -> bool:
        """Whether a checkpoint that is loaded now is the one that the fit goes on from.

        That is loaded before the fit makes its optimizers. Lightning's finders load one of their
        own later.
        """
        return trainer.optimizers is self._optimizers

    def keep_learner(self) -> None:
        """Let the learner stay as it is now."""
        self._attributes = None

    @torch.no_grad()
    def put_back_network(self, wrote: Callable[[Group], None]) -> None:
        """Give the network the values that were kept.

        Args:
            wrote: called with every group that got them.
        """
        for group, values in self._groups:
            for place, value in zip(group, values, strict=True):
                place.tensor.copy_(value)
            wrote(group)
        for way_back in self._ways_back:
            way_back()

    def put_back_learner(self, learner: object) -> None:
        """Give the learner all attributes that it had, also those of its subclasses."""
        if self._attributes is not None:
            vars(learner).clear()
            vars(learner).update(self._attributes)
