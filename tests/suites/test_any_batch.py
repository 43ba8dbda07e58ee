"""Every network in evaluation mode, with batches of any size."""

import pytest
import torch
from torch import Tensor, nn

from tests.methods import NETWORKS, Method, over


def _forms(method: Method) -> list[nn.Module]:
    network = method.task().backbone.double().eval()
    compact = getattr(network, "compact", None)
    return [network] if compact is None else [network, compact()]


@over(NETWORKS, "network")
def test_an_answer_does_not_depend_on_the_other_images(method: Method) -> None:
    images = torch.rand(9, 1, 8, 8).double()
    for network in _forms(method):
        whole = network(images)
        parts = torch.cat([network(part) for part in images.split([1, 0, 5, 3])])
        # A solver that chooses its steps by the whole batch ends within its tolerance.
        loose = {"rtol": 0.05, "atol": 0.05} if method.name == "continuous-graph" else {}
        torch.testing.assert_close(parts, whole, **loose)


@over(NETWORKS, "network")
@pytest.mark.parametrize("learns", [False, True])
def test_an_empty_batch_has_no_answers(method: Method, learns: bool) -> None:
    images = torch.zeros(0, 1, 8, 8, dtype=torch.float64, requires_grad=learns)
    for network in _forms(method):
        with torch.set_grad_enabled(learns):
            logits: Tensor = network(images)
        assert logits.shape == (0, 10)
        if logits.requires_grad:
            logits.sum().backward()
            assert not any(
                weight.grad.any() for weight in network.parameters() if weight.grad is not None
            )
