"""How many weights a callback keeps of a layer."""

import pytest
import torch
from torch import nn

from tests.callbacks.reader import Reader, edges, fit
from wiring_lightning.callbacks import DNW


@pytest.mark.parametrize(
    ("density", "kept"),
    [
        (0.1, {"first": 7, "body.1": 115, "head": 16}),  # of 72, 1,152 and 160
        (0.01, {"first": 1, "body.1": 12, "head": 2}),
        (0.001, {"first": 1, "body.1": 1, "head": 1}),
        (0.29, {"first": 21, "body.1": 334, "head": 46}),
        (1.0, {"first": 72, "body.1": 1152, "head": 160}),
    ],
)
def test_a_density_is_rounded_to_the_nearest_number_but_never_to_none(
    density: float, kept: dict[str, int]
) -> None:
    module, _ = fit(DNW(density=density), steps=1)
    assert {name: edges(module.get_submodule(name)) for name in kept} == kept


def test_a_group_shares_the_share_of_all_its_weights() -> None:
    module, _ = fit(DNW(density=0.5, groups={"ends": ["first", "head"]}), steps=1)
    assert edges(module.first) + edges(module.head) == (72 + 160) // 2
    assert edges(module.body[1]) == 1152 // 2


def test_biases_and_norms_stay_dense() -> None:
    module = Reader()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    fit(DNW(density=0.1), module, steps=2)
    dense = [p for p in module.parameters() if p.dim() == 1]
    norms = [m.weight for m in module.modules() if isinstance(m, nn.GroupNorm)]
    assert all(parameter.count_nonzero() == parameter.numel() for parameter in [*dense, *norms])
