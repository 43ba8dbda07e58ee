"""Costs that are objects with settings."""

from abc import ABC, abstractmethod

from torch import Tensor

from wiring_lightning.wiring import Priced, Wiring


class ConfiguredCost(ABC):
    """Base class of costs with arguments, for configs; a plain function needs no base class.

    `callbacks.BudgetedSearch` calls `bind` once, and `seed` in every step.
    """

    @abstractmethod
    def __call__(self, wiring: Wiring) -> Tensor:
        """The cost of one architecture, or of each in a batch."""

    def bind(self, network: Priced) -> None:  # noqa: B027  # most costs need no network
        """Set the network whose architectures are measured."""

    def seed(self, seed: int) -> None:  # noqa: B027  # most costs are not random
        """Seed the random generator of the cost."""
