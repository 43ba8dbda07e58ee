"""Costs that are objects with settings."""

from abc import ABC, abstractmethod

from torch import Tensor

from wiring_lightning.wiring import SuperNetwork, Wiring


class ConfiguredCost(ABC):
    """Base of costs that configs name with arguments; a plain function needs no base.

    `callbacks.BudgetedSearch` introduces the network once and seeds the cost in every step.
    """

    @abstractmethod
    def __call__(self, wiring: Wiring) -> Tensor:
        """Price one architecture, or each of a batch."""

    def bind(self, network: SuperNetwork) -> None:  # noqa: B027  # most costs need no network
        """Price architectures of this network from now on."""

    def seed(self, seed: int) -> None:  # noqa: B027  # most costs have no chance in them
        """Let all that is random follow from this seed."""
