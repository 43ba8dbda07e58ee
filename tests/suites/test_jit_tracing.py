"""`torch.jit.trace` follows every network, as `log_graph` of a logger and older exporters do."""

import warnings

import pytest
import torch
from torch import nn

from tests.methods import NETWORKS, Method, over

# A solver takes as many steps as its inputs need, which a recording of one call cannot hold.
_FOLLOWED = [
    method
    for method in NETWORKS
    if method.backbone.__module__.startswith("wiring_lightning.")
    and method.arguments.get("dynamics") != "continuous"
]


@over(_FOLLOWED)
@pytest.mark.parametrize("form", ["whole", "compact", "folded"])
def test_a_recorded_network_computes_the_same_for_any_number_of_images(
    method: Method, form: str
) -> None:
    torch.manual_seed(0)
    network: nn.Module = method.backbone(**method.arguments).eval()
    if form != "whole":
        network = network.compact(fold_batch_norm=form == "folded")
    images = torch.randn(5, 1, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about numbers that the recording takes for constants
        recorded = torch.jit.trace(network, images[:3])
    with torch.no_grad():
        for count in (1, 3, 5):
            expected = network(images[:count])
            torch.testing.assert_close(recorded(images[:count]), expected, atol=1e-5, rtol=1e-5)
