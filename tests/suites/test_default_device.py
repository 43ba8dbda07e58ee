"""Another default device, such as `torch.set_default_device` gives, changes no result.

Networks are built on it; what is about their structure, and the data, stays on the CPU.
"""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from tests.data.image_folders import write_classes
from tests.methods import NETWORKS, Method, over
from tests.simulated.process import in_own_process
from tests.simulated_device import on_cpu, simulated
from wiring_lightning import costs
from wiring_lightning.data import Digits, DigitSums, ImageFolder
from wiring_lightning.wiring import Wiring, find_wired


@over(NETWORKS)
@in_own_process
def test_networks_answer_under_it(method: Method) -> None:
    images = torch.rand(4, 1, 8, 8)
    with simulated() as device:
        with device:
            network = method.backbone(**method.arguments)
        there = images.to(device)
        network.train()(there).sum().backward()
        network.eval()
        with device:
            network.train()(there).sum().backward()
            answer = network.eval()(there)
            assert answer.device == device
            if find_wired(network) is None:
                return
            facts = _facts(network.wiring())
            compact = network.compact()
            small = compact(there)
            small_facts = _facts(compact.wiring())
        torch.testing.assert_close(on_cpu(small), on_cpu(answer), rtol=1e-3, atol=1e-4)
        for found, own in ((facts, network), (small_facts, compact)):
            for one, other in zip(found, _facts(own.wiring()), strict=True):
                assert one.device.type == "cpu"
                torch.testing.assert_close(one, other)


def _facts(wiring: Wiring) -> list[Tensor]:
    """A wiring, and what it costs; a graph that runs in time has no number of steps."""
    columns = [wiring.source, wiring.target, wiring.active, wiring.score, wiring.live_nodes]
    prices = [costs.parameters(wiring), costs.multiply_adds(wiring)]
    if bool((wiring.source < wiring.target).all()):
        prices.append(costs.SequentialSteps()(wiring))
    return columns + prices


@pytest.mark.slow
@in_own_process
def test_data_are_the_same_under_it(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, {"a": 3, "b": 3}, size=(12, 12))
    makes = [
        lambda: Digits(batch_size=16),
        lambda: DigitSums(batch_size=16, size=32),
        lambda: ImageFolder(tmp_path, batch_size=2, image_size=8, num_workers=0),
        lambda: ImageFolder(tmp_path, batch_size=2, image_size=8, num_workers=1),
    ]
    with simulated() as device:
        for make in makes:
            with device:
                found = _first_batches(make())
            for one, other in zip(found, _first_batches(make()), strict=True):
                assert one.device.type == "cpu"
                assert torch.equal(one, other)


def _first_batches(data: LightningDataModule) -> list[Tensor]:
    data.setup("fit")
    loaders = data.train_dataloader(), data.val_dataloader()
    return [part for loader in loaders for part in next(iter(loader))]
