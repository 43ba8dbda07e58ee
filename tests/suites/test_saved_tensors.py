"""What autograd saves may be copied elsewhere, or computed again: gradients are the same."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.methods import NETWORKS, Method, over

Run = Callable[[nn.Module, Tensor], Tensor]


def _copied(network: nn.Module, images: Tensor) -> Tensor:
    """As `torch.autograd.graph.save_on_cpu` does for networks on a GPU."""
    with saved_tensors_hooks(torch.clone, lambda copy: copy):
        return network(images)


def _computed_again(network: nn.Module, images: Tensor) -> Tensor:
    return checkpoint(network, images, use_reentrant=False)


def _gradients(network: nn.Module, run: Run) -> dict[str, Tensor]:
    torch.manual_seed(1)  # a fabric draws in every forward pass
    images, labels = torch.rand(6, 1, 8, 8).double(), torch.arange(6)
    network.zero_grad()
    functional.cross_entropy(run(network, images), labels).backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


@over(NETWORKS, "network")
@pytest.mark.parametrize("run", [_copied, _computed_again], ids=["copied", "computed again"])
def test_gradients_do_not_depend_on_where_saved_tensors_are(method: Method, run: Run) -> None:
    network = method.task().backbone.double().train()
    expected = _gradients(network, lambda module, images: module(images))
    found = _gradients(network, run)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11 * scale, msg=name)
