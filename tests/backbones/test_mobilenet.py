import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wiring_lightning import costs
from wiring_lightning.backbones import MobileNetV1


@pytest.mark.parametrize(
    ("width", "parameters", "multiply_adds"),
    # MobileNetV1, Tables 6 and 7: 4.2M, 2.6M, 1.3M, 0.5M parameters, 569M, 325M, 149M, 41M.
    [(1.0, 4.2, 569), (0.75, 2.6, 325), (0.5, 1.3, 149), (0.25, 0.5, 41)],
)
def test_imagenet_networks_have_the_papers_size(
    width: float, parameters: float, multiply_adds: int
) -> None:
    network = MobileNetV1(width, num_classes=1000, stem="imagenet")
    wiring = network.wiring()
    stored = sum(p.numel() for p in network.parameters())
    assert int(costs.parameters(wiring)) == stored
    assert round(stored / 1e6, 1) == parameters
    assert round(int(costs.multiply_adds(wiring)) / 1e6) == multiply_adds


def test_cifar_network_has_the_authors_size() -> None:
    assert sum(p.numel() for p in MobileNetV1(0.25).parameters()) == 215_642


@pytest.mark.parametrize(("stem", "size"), [("cifar", 32), ("cifar", 20), ("imagenet", 64)])
def test_multiply_adds_are_those_that_torch_counts(stem: str, size: int) -> None:
    network = MobileNetV1(0.25, stem=stem, image_size=size).eval()  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = network(torch.randn(1, 3, size, size))
    assert logits.shape == (1, 10)
    assert counter.get_total_flops() == 2 * int(costs.multiply_adds(network.wiring()))


def test_it_is_a_chain_of_fifteen() -> None:
    wiring = MobileNetV1(0.25).wiring()
    assert wiring.nodes.names == ("stem", *(f"layer{i}" for i in range(1, 14)), "classifier")
    assert int(costs.sequential_steps(wiring, machines=4)) == 15


def test_compact_is_the_same_function() -> None:
    network = MobileNetV1(0.25)
    network(torch.randn(4, 3, 32, 32))  # moves the running statistics
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.compact()(images), network.eval()(images))


def test_bad_arguments_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match=r"at least 0.03125, .* got 0.03"):
        MobileNetV1(0.03)
    with pytest.raises(ValueError, match='no stem "mini"; choose one of cifar, imagenet'):
        MobileNetV1(stem="mini")  # type: ignore[arg-type]
