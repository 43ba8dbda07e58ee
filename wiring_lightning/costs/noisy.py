"""A cost with random noise, such as the latency of a busy machine."""

import torch
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_number, check_seed
from wiring_lightning.costs.configured import ConfiguredCost
from wiring_lightning.costs.named import Cost, CostName, as_cost
from wiring_lightning.costs.prices import as_prices, name_of_cost
from wiring_lightning.wiring import Priced, Wiring


class NoisyCost(ConfiguredCost):
    """A cost with Gaussian noise, never below zero (BSN, appendix: stochastic costs).

    The policy gradient stays valid: its expectation also covers the noise.

    Args:
        cost: the cost without noise, or its name.
        std: standard deviation of the noise, in the units of the cost.
        seed: seed of the noise. `callbacks.BudgetedSearch` sets a new seed in every step.

    Raises:
        ValueError: if `std` is negative or infinite, or there is no such cost; when called, if the
            cost without noise is not one finite number for each architecture.

    Example:
        >>> from wiring_lightning.costs import parameters
        >>> from wiring_lightning.wiring import make_wiring
        >>> wiring = make_wiring(["in", "out"], [0], [1], [True], parameters=[100, 100])
        >>> NoisyCost(parameters, std=0.0)(wiring)
        tensor(200.)
        >>> noisy = NoisyCost(parameters, std=5.0)
        >>> bool(noisy(wiring) == noisy(wiring))
        False
    """

    def __init__(self, cost: CostName | ConfiguredCost | Cost, std: float, seed: int = 0) -> None:
        check_number("std", std)
        self.cost = as_cost(cost)
        self.std = std
        self._generator = torch.Generator()
        check_seed(seed)
        self.seed(seed)

    @override
    def seed(self, seed: int) -> None:
        """Seed the noise."""
        self._generator.manual_seed(seed)
        if isinstance(self.cost, ConfiguredCost):
            self.cost.seed(seed)

    @override
    def bind(self, network: Priced) -> None:
        """Set the network of the cost without noise."""
        if isinstance(self.cost, ConfiguredCost):
            self.cost.bind(network)

    @override
    def __call__(self, wiring: Wiring) -> Tensor:
        """The cost of one architecture, or of each in a batch."""
        price = as_prices(self.cost(wiring), wiring, name_of_cost(self.cost)).float()
        noise = torch.randn(price.shape, generator=self._generator, device="cpu")
        return (price + self.std * noise).clamp_min(0)

    def __repr__(self) -> str:
        return f"NoisyCost({self.cost!r}, std={self.std})"


def without_noise(cost: Cost) -> Cost:
    """The cost inside of a `NoisyCost`; any other cost as it is.

    Example:
        >>> from wiring_lightning.costs import parameters
        >>> without_noise(NoisyCost("parameters", std=5.0)) is parameters
        True
    """
    return without_noise(cost.cost) if isinstance(cost, NoisyCost) else cost
