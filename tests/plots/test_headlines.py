"""Every network is drawn as what it is, and the numbers above a picture are those of its wiring."""

import re
from collections.abc import Callable

import pytest
import torch

from tests.methods import METHODS
from wiring_lightning import backbones
from wiring_lightning.backbones import ConvFabric, GatedHeads, ResNetFabric, SparseResNet
from wiring_lightning.callbacks.pictures import draw_pictures
from wiring_lightning.plots import draw_architecture, is_channel_graph, is_fabric
from wiring_lightning.plots.rows import inner_nodes
from wiring_lightning.wiring import Wired, Wiring, make_wiring

# A row of the registry for each network that is made in a way of its own.
REGISTRY: dict[str, Callable[[], Wired]] = {
    f"{method.backbone.__name__}-{number}": lambda method=method: method.backbone(
        **method.arguments
    )
    for number, method in enumerate(METHODS)
    if hasattr(method.backbone, "wiring")
    and method.arguments not in [other.arguments for other in METHODS[:number]]
}
NETWORKS: dict[str, Callable[[], Wired]] = REGISTRY | {
    "heads": GatedHeads,
    "SparseResNet-20": lambda: SparseResNet(depth=20),
    "SparseResNet-56": lambda: SparseResNet(depth=56),
    "SparseResNet-164": lambda: SparseResNet(depth=164),
    "the ResNet of a fabric": lambda: ResNetFabric(width=3, architecture="resnet"),
    "a grid to segment": lambda: ConvFabric(3, 2, 4, 2, "segmentation"),
}


@pytest.fixture(params=NETWORKS, name="wirings", scope="module")
def of_a_network_and_its_compact_form(request: pytest.FixtureRequest) -> tuple[bool, list[Wiring]]:
    """Whether the network is a fabric, its wiring, and that of its compact form."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    fabric = isinstance(network, ResNetFabric | ConvFabric)
    if fabric and network.gate is not None:
        network.gate.logits.data.normal_(2.0, 1.5)  # some modules are removed
    forms = [network, network.compact()]
    return fabric, [form.wiring() for form in forms if isinstance(form, Wired)]


def test_no_backbone_is_forgotten() -> None:
    made = {name.partition("-")[0] for name in NETWORKS} | {"GatedHeads"}
    wired = {name for name in backbones.__all__ if hasattr(getattr(backbones, name), "wiring")}
    assert wired <= made


def test_only_fabrics_are_drawn_as_fabrics(wirings: tuple[bool, list[Wiring]]) -> None:
    fabric, all_ = wirings
    assert [is_fabric(wiring) for wiring in all_] == [fabric] * len(all_)


def test_the_numbers_above_a_picture_are_those_of_the_wiring(
    wirings: tuple[bool, list[Wiring]],
) -> None:
    for wiring in wirings[1]:
        assert _numbers(_headline(wiring)) == _counted(wiring)


def test_the_monitor_draws_a_sparse_resnet_in_rows() -> None:
    network = SparseResNet(depth=29)
    names = [name for name, _ in draw_pictures(network, network.wiring())]
    assert names == ["graph", "active_branches"]


def _headline(wiring: Wiring) -> str:
    figure = draw_architecture(wiring)
    return figure.texts[0].get_text() if figure.texts else figure.axes[0].get_title(loc="left")


def _numbers(headline: str) -> set[tuple[int, int]]:
    """The pairs "1,234 of 5,678" of a headline."""
    pairs = re.findall(r"([\d,]+) of ([\d,]+)", headline)
    return {(int(few.replace(",", "")), int(all_.replace(",", ""))) for few, all_ in pairs}


def _counted(wiring: Wiring) -> set[tuple[int, int]]:
    """Live and all inner nodes, and active and all edges that count."""
    names, source, target = wiring.nodes.names, wiring.source, wiring.target
    inner, active = inner_nodes(wiring), wiring.active
    chosen = wiring.learnable if wiring.learnable.any() else torch.ones_like(wiring.learnable)
    sums = torch.tensor([name.endswith(".sum") for name in names])
    if sums.any():
        # A module and what it reads are one edge; the edge to the classifier does not count.
        starts = sums.index_fill(0, torch.tensor(0), True)
        chosen = chosen & starts[source] & (target < len(names) - 1)
        inner, active = inner & sums, wiring.live_edges
    edges = int(chosen.sum())
    if is_channel_graph(wiring):
        chosen, edges = torch.ones_like(chosen), wiring.candidates
    live = int((inner & wiring.live_nodes).sum())
    return {(live, int(inner.sum())), (int((active & chosen).sum()), edges)}


def _named_as_a_fabric(source: list[int], target: list[int]) -> Wiring:
    names = ["stem", "stage1.block1.residual", "stage1.block1.sum", "stage1.block2.residual",
             "stage1.block2.sum", "classifier"]  # fmt: skip
    return make_wiring(names, source, target, [True] * len(source), group=[0, 1, 1, 2, 2, 3])


@pytest.mark.parametrize(
    ("more", "fabric"),
    [
        ([], True),
        ([(0, 2), (2, 4), (0, 4)], True),  # shortcuts
        ([(1, 3)], False),  # reads a module, not its sum
        ([(1, 4)], False),
        ([(0, 3)], False),  # a module that reads two sums
    ],
)
def test_edges_decide_too_and_not_the_names_alone(
    more: list[tuple[int, int]], fabric: bool
) -> None:
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), *more]
    source, target = map(list, zip(*edges, strict=True))
    wiring = _named_as_a_fabric(source, target)
    assert is_fabric(wiring) == fabric
    assert "edges" in _headline(wiring)  # it is drawn in any case
