"""Parametrized, pruned and complex weights, and sparse gradients."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from tests.callbacks.test_weight_choice import DENSITY, Of, fit, share
from wiring_lightning.callbacks import (
    DNW,
    SNIP,
    L1Anneal,
    MaskSchedule,
    NMSparsity,
    RandomEdges,
    WiringError,
)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
        (parametrizations.weight_norm, "parametrizations.weight.original1"),
        (torch.nn.utils.spectral_norm, "weight_orig"),
    ],
)
def test_parametrized_layers_are_sparse_in_what_they_are_made_from(make: Any, name: str) -> None:
    module = fit(DNW(density=DENSITY), Of(make(nn.Linear(16, 16))))
    assert share(module.middle.get_parameter(name)) == DENSITY
    assert share(module.middle.weight) == DENSITY


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("learner", [DNW(density=DENSITY), RandomEdges(density=DENSITY)])
def test_a_layer_that_computes_a_dense_weight_is_named_once(
    learner: Any, recwarn: pytest.WarningsRecorder
) -> None:
    module = fit(learner, Of(parametrizations.orthogonal(nn.Linear(16, 16))))
    assert share(module.middle.weight) == 1
    said = [str(one.message) for one in recwarn if "compute" in str(one.message)]
    assert len(said) == 1
    assert "middle.weight will be sparse as parameters, but" in said[0]


@pytest.mark.parametrize(
    ("normed", "learner"),
    [
        (parametrizations.weight_norm, RandomEdges(density=0.05)),
        (torch.nn.utils.weight_norm, DNW(density=0.05)),
        (parametrizations.weight_norm, L1Anneal(density=0.05)),  # empties a row during the fit
        (torch.nn.utils.weight_norm, SNIP(density=0.05)),
        (
            parametrizations.spectral_norm,
            RandomEdges(edges=1, groups={"a": ["middle", "head"]}, seed=1),
        ),
    ],
)
def test_a_norm_of_no_weights_is_named(normed: Any, learner: Any) -> None:
    with pytest.raises(WiringError, match=r": middle.weight have a row without weights"):
        fit(learner, Of(normed(nn.Linear(16, 16))))


@pytest.mark.parametrize("make", [DNW, L1Anneal, RandomEdges, SNIP])
def test_weights_that_torch_has_pruned_stay_absent(make: Any) -> None:
    module = Of(nn.Linear(16, 16))
    prune.random_unstructured(module.middle, "weight", 0.5)
    learner = make(density=DENSITY, layers=["middle"])
    fit(learner, module)
    assert int(module.middle.weight_orig.count_nonzero()) == 32  # of the 128 that torch has left
    assert int(module.middle.weight.count_nonzero()) == 32


class Words(Of):
    """Looks up vectors, of which the gradient is a sparse tensor."""

    def transform(self, features: Tensor) -> Tensor:
        return features + self.middle((8 * features[:, 0]).long().abs() % 16)


@pytest.mark.parametrize(
    "learner",
    [
        L1Anneal(density=DENSITY, layers=["Embedding"]),
        NMSparsity(1, 4, layers=["Embedding"]),
        SNIP(density=DENSITY, layers=["Embedding"]),
        MaskSchedule(
            density=DENSITY, layers=["Embedding"], every=1, fraction=0.3, grow="momentum",
            initial_density=1.0,
        ),
    ],
)  # fmt: skip
def test_sparse_gradients_are_as_dense_ones(learner: Any) -> None:
    with_sparse, with_dense = (
        Words(nn.Embedding(16, 16, _weight=torch.ones(16, 16).cumsum(1).cos(), sparse=sparse))
        for sparse in (True, False)
    )
    for module in (with_sparse, with_dense):
        module.make = partial(torch.optim.SGD, lr=0.5)
        fit(learner, module)
    torch.testing.assert_close(with_sparse.middle.weight, with_dense.middle.weight)
    assert share(with_sparse.middle.weight) <= DENSITY


class Complex(Of):
    def transform(self, features: Tensor) -> Tensor:
        return (features.to(torch.cdouble) @ self.middle.weight).abs()


@pytest.mark.parametrize("make", [DNW, L1Anneal])
def test_complex_weights_are_ranked_by_their_magnitudes(make: Any) -> None:
    matrix = nn.Module()
    matrix.weight = nn.Parameter(torch.randn(16, 16, dtype=torch.cdouble))
    fit(make(density=DENSITY, layers=["middle"]), Complex(matrix))
    assert share(matrix.weight.abs()) == DENSITY
