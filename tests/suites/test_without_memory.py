"""Networks that were on the device `meta`, which holds no values, and get theirs from a file.

Memory that torch hands out uninitialised is filled here, with values that nothing here has.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from lightning.fabric.utilities.throughput import measure_flops
from torch import Tensor, nn

from tests.methods import NETWORKS, Method, over
from wiring_lightning.nn import Adjacency, BernoulliGate, Gate, GraphStage
from wiring_lightning.tasks._losses import LabelLosses

EARLIER = torch.ones(4, 4, dtype=torch.bool).tril()
# The first draw edges, the last chooses the steps of its solver.
_READ_VALUES = "resnet-fabric", "conv-fabric", "continuous-graph"
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Gate": lambda: Gate(3, 4, fan_in=2),
    "Gate of earlier ones": lambda: Gate(4, 4, fan_in=2, usable=EARLIER),
    "real Gate": lambda: Gate(4, 4, fan_in=2, mode="real", usable=EARLIER),
    "covered Gate": lambda: Gate(4, 4, fan_in=2, mode="covered", usable=EARLIER),
    "Adjacency": lambda: Adjacency(EARLIER, edges=3),
    "random Adjacency": lambda: Adjacency(EARLIER, edges=3, mode="random"),
    "GraphStage": lambda: GraphStage(inputs=4, width=8, blocks=3, stride=2, edges=50),
    "BernoulliGate": lambda: BernoulliGate(3, [0, 0, 1], [1, 2, 2], [True, False, True]),
}


@pytest.fixture(autouse=True)
def filled() -> Iterator[None]:
    """Uninitialised memory holds the values that show it: NaN, the largest integers, `True`."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def built_and_filled(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        network = make()
    network.to_empty(device="cpu").load_state_dict(state)
    return network


def built_and_assigned(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        network = make()
    network.load_state_dict(state, assign=True)
    return network


def moved_away(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    network = make().to("meta").to_empty(device="cpu")
    network.load_state_dict(state)
    return network


WAYS = pytest.mark.parametrize("way", [built_and_filled, built_and_assigned, moved_away])


def check_alike(network: nn.Module, expected: nn.Module) -> None:
    """All parameters and buffers are the same, also those that are in no `state_dict`."""
    for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
        found, own = dict(tensors(network)), dict(tensors(expected))
        assert found.keys() == own.keys()
        for name, value in own.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@WAYS
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_what_they_were_built_as(name: str, way: Callable[..., nn.Module]) -> None:
    expected = LAYERS[name]()
    layer = way(LAYERS[name], expected.state_dict())
    check_alike(layer, expected)


@WAYS
@pytest.mark.parametrize("method", NETWORKS, ids=lambda method: method.name)
def test_networks_are_what_they_were_built_as(
    method: Method, way: Callable[..., nn.Module]
) -> None:
    expected = method.backbone(**method.arguments).eval()
    network = way(lambda: method.backbone(**method.arguments), expected.state_dict()).eval()
    check_alike(network, expected)
    if hasattr(expected, "wiring"):
        found, own = network.wiring(), expected.wiring()
        assert found.unlisted == own.unlisted
        assert torch.equal(found.source, own.source)
        assert torch.equal(found.target, own.target)


@over([method for method in NETWORKS if method.name not in _READ_VALUES])
def test_networks_run_without_values(method: Method) -> None:
    """As Lightning's `ThroughputMonitor` counts their work."""
    with torch.device("meta"):
        network, images = method.backbone(**method.arguments), torch.rand(4, 1, 8, 8)
    assert network.eval()(images).shape == (4, 10)
    assert measure_flops(network, lambda: network.train()(images), torch.sum) > 0


@WAYS
def test_a_mask_on_meta_is_known_by_the_scores(way: Callable[..., nn.Module]) -> None:
    """As that of a user's network, which makes it where it makes everything else."""

    def make() -> nn.Module:
        return Gate(4, 4, fan_in=2, usable=torch.ones(4, 4, dtype=torch.bool).tril())

    gate = way(make, Gate(4, 4, fan_in=2, usable=EARLIER).state_dict())
    assert torch.equal(gate.usable, EARLIER)
    with pytest.raises(RuntimeError, match="for other candidates"):
        gate.load_state_dict(Gate(4, 4, fan_in=2).state_dict())


def test_a_graph_needs_to_know_its_edges() -> None:
    with pytest.raises(ValueError, match=r'usable is on the device meta.*device="cpu"'):
        Adjacency(EARLIER.to("meta"), edges=3)


def test_weights_of_classes_stay() -> None:
    def make() -> nn.Module:
        return LabelLosses("focal", 3, class_weights=[0.1, 1.0, 4.0])

    check_alike(make().to("meta").to_empty(device="cpu"), make())
    check_alike(make().half().to("meta").to_empty(device="cpu"), make().half())
    with torch.device("meta"):
        built = make()
    check_alike(built.to_empty(device="cpu"), make())


def test_what_is_kept_moves_and_changes_its_kind_of_numbers() -> None:
    gate = Gate(4, 4, fan_in=2, usable=EARLIER).half()
    assert gate.to("meta").usable.is_meta
    assert gate.to_empty(device="cpu").usable.dtype == torch.bool
    gate.usable.fill_(False)
    assert torch.equal(gate.float().usable, EARLIER)  # what is kept is no buffer itself
