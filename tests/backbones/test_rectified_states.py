"""A graph in continuous time whose ReLU works in place, as in the authors' code."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchdiffeq import odeint

from tests.backbones.plain_neural_graph import logits
from tests.backbones.test_neural_graph import FEW, images, tiny
from wiring_lightning.backbones import NeuralGraph


def in_place(network: NeuralGraph, batch: Tensor) -> Tensor:
    """The solver of torchdiffeq around standard layers and `relu` in place."""
    operations, nodes = network.operations, sum(network.sizes)

    def derivative(_time: Tensor, states: Tensor) -> Tensor:
        states = functional.relu(states, inplace=True)
        sent = functional.conv2d(states, operations.filters[:, None], padding=1, groups=nodes)
        received = torch.einsum("rs,bshw->brhw", network.adjacency.matrix(), sent)
        return functional.instance_norm(
            received, weight=operations.scale, bias=operations.shift, eps=1e-5
        )

    first = network.stem(batch)
    zeros = first.new_zeros(len(first), nodes - first.shape[1], *first.shape[2:])
    times = torch.tensor([0.0, 1.0], dtype=first.dtype)
    states = odeint(
        derivative, torch.cat([first, zeros], 1), times, rtol=1e-3, atol=1e-3, method="dopri5"
    )[-1]
    return logits(network, states[:, -network.outputs :])


def test_states_are_rectified_as_by_a_relu_in_place() -> None:
    network, batch = tiny("continuous", rectify_states=True, **FEW), images(3)
    expected, actual = in_place(network, batch), network(batch)
    torch.testing.assert_close(actual, expected)
    ours, theirs = (
        torch.autograd.grad(
            out.square().sum(), [network.operations.scale, network.stem.conv.weight]
        )
        for out in (actual, expected)
    )
    torch.testing.assert_close(ours, theirs)
    other = tiny("continuous", **FEW)
    other.load_state_dict(network.state_dict(), strict=False)
    assert (other(batch) - actual).abs().max() > 0.1 * actual.std()


@pytest.mark.parametrize("options", [{"dynamics": "discrete"}, {"adjoint": True}])
def test_it_is_refused_where_it_has_no_meaning(options: dict[str, object]) -> None:
    arguments = {"dynamics": "continuous", "rectify_states": True, **options}
    with pytest.raises(ValueError, match="rectify_states is for dynamics continuous without"):
        NeuralGraph(**arguments)  # type: ignore[arg-type]
