"""Every seed is checked where it is given, and not when it is used."""

from collections.abc import Callable
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

from wiring_lightning import callbacks, costs, data
from wiring_lightning.backbones import GatedHeads

OWNERS: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda seed, name=name: getattr(callbacks, name)(seed=seed)
        for name in ("MaskConnect", "RandomEdges", "TargetedDropout", "SET", "RigL", "SNIP")
    },
    "BudgetedSearch": lambda seed: callbacks.BudgetedSearch(10, seed=seed),
    "NoisyCost": lambda seed: costs.NoisyCost("parameters", 1.0, seed=seed),
    "Digits": lambda seed: data.Digits(seed=seed),
    "DigitSums": lambda seed: data.DigitSums(wiring_seed=seed),
    "GatedHeads": lambda seed: GatedHeads(wiring_seed=seed),
    "ImageFolder": lambda seed: data.ImageFolder(seed=seed),
    "ImageFolder's split": lambda seed: data.ImageFolder(split_seed=seed),
    "ImageMaskFolder's split": lambda seed: data.ImageMaskFolder(["a", "b"], split_seed=seed),
}


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("seed", [1.5, "a", None, True, 2**64, -(2**63) - 1])
def test_a_wrong_seed_is_refused(owner: str, seed: Any) -> None:
    with pytest.raises((MisconfigurationException, ValueError), match="seed must be"):
        OWNERS[owner](seed)


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, -(2**63)])
def test_any_whole_number_of_64_bits_is_a_seed(owner: str, seed: int) -> None:
    OWNERS[owner](seed)
