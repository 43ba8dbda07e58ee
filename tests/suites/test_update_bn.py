"""`torch.optim.swa_utils.update_bn`: statistics over all batches, without gradients."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from tests.methods import NETWORKS, Method, over


def _norms(network: nn.Module) -> list[_BatchNorm]:
    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if norm.running_mean is not None]


def _statistics(network: nn.Module) -> list[Tensor]:
    return [torch.stack([norm.running_mean, norm.running_var]) for norm in _norms(network)]


@over(NETWORKS, "network")
@pytest.mark.parametrize("compact", [False, True], ids=["whole", "compact"])
def test_statistics_are_the_mean_of_those_of_all_batches(
    method: Method, compact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One image would be a part, if a batch could be computed in parts here.
    monkeypatch.setattr("wiring_lightning.functional.batch_parts._PART_BYTES", 1)
    network = method.task().backbone
    if compact:
        if not hasattr(network, "compact"):
            pytest.skip(f"{method.name}: the network has no compact form")
        network = network.eval().compact()
    batches = [torch.rand(8, 1, 8, 8) for _ in range(3)]
    updated, single = deepcopy(network), deepcopy(network).train()
    torch.manual_seed(1)  # a fabric draws in every forward pass
    update_bn(batches, updated)
    torch.manual_seed(1)
    for norm in _norms(single):
        norm.momentum = 1.0  # then the statistics are those of the last batch
    each = []
    for images in batches:
        single(images)
        each.append(_statistics(single))
    for found, values in zip(_statistics(updated), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
