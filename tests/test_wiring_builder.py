"""The builder: broadcast columns, groups, a gate's choice, and what it refuses."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from wiring_lightning.costs import parameters, sparse_multiply_adds
from wiring_lightning.nn import Gate, SparseLinear
from wiring_lightning.wiring import WiringBuilder, count_multiply_adds, make_wiring


def edges_of(wiring) -> list[tuple[int, int]]:
    return list(zip(wiring.source.tolist(), wiring.target.tolist(), strict=True))


def test_nodes_that_follow_one_another_are_a_group_if_their_names_agree():
    graph = WiringBuilder()
    for name in ("stem", "a.x", "a.y", "b.x", "a.z", "c", "d"):
        graph.add_node(name)
    assert graph.wiring().nodes.group.tolist() == [0, 1, 1, 2, 3, 4, 5]


def test_costs_are_those_of_nodes_of_groups_and_of_edges():
    graph = WiringBuilder()
    stem = graph.add_node("stem", 10, 100, steps=0)
    branches = graph.add_group("m.branch", 2, 3, 30, group_parameters=7, group_multiply_adds=70)
    graph.connect(stem, branches, parameters=[1, 2], multiply_adds=5)
    graph.add_node("out", reads=branches)
    wiring = graph.wiring(unlisted=9)
    assert wiring.nodes.names == ("stem", "m.branch0", "m.branch1", "out")
    assert wiring.nodes.parameters.tolist() == [10, 3, 3, 0]
    assert wiring.nodes.multiply_adds.tolist() == [100, 30, 30, 0]
    assert wiring.nodes.group_parameters.tolist() == [0, 7, 0]
    assert wiring.nodes.group_multiply_adds.tolist() == [0, 70, 0]
    assert wiring.nodes.steps.tolist() == [0, 1, 1, 1]
    assert wiring.parameters.tolist() == [1, 2, 0, 0]
    assert wiring.multiply_adds.tolist() == [5, 5, 0, 0]
    assert wiring.candidates == 4 + 9


def test_what_groups_of_one_name_share_is_added():
    graph = WiringBuilder()
    graph.add_group("m.a", 2, group_parameters=10)
    graph.add_group("m.b", 1)
    graph.add_group("m.c", 2, group_parameters=3, group_multiply_adds=5)
    nodes = graph.wiring().nodes
    assert nodes.group.tolist() == [0] * 5
    assert (nodes.group_parameters.tolist(), nodes.group_multiply_adds.tolist()) == ([13], [5])


@pytest.mark.parametrize("stored", [False, True])
def test_parameters_that_nodes_share_count_once(stored: bool):
    shared, own = nn.Linear(4, 4), nn.Linear(4, 4)
    tied = nn.Linear(4, 4)
    tied.weight = own.weight
    if stored:
        shared = SparseLinear(shared)
    graph = WiringBuilder()
    nodes = [
        graph.add_layers("first", shared, shared, side=1),
        graph.add_layers("second", shared, own, side=1),
        graph.add_layers("third", nn.Sequential(tied, own), side=1),
    ]
    for pair in pairwise(nodes):
        graph.connect(*pair)
    wiring = graph.wiring()
    assert wiring.nodes.parameters.tolist() == [20, 20, 4]
    assert int(parameters(wiring)) == 44
    assert wiring.nodes.multiply_adds.tolist() == [32, 32, 32]


@pytest.mark.parametrize("names", [("in", "a", "a"), ("in", "m.x0", "in")])
def test_equal_names_are_refused(names: tuple[str, ...]):
    graph = WiringBuilder()
    for name in names:
        graph.add_node(name)
    with pytest.raises(ValueError, match=f'several nodes are called "{names[2]}"'):
        graph.wiring()
    with pytest.raises(ValueError, match=f'several nodes are called "{names[2]}"'):
        make_wiring(names, [0], [1], [True])


def test_layers_count_their_own_costs():
    graph, conv, norm = WiringBuilder(), nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
    graph.add_layers("stem", conv, norm, nn.Conv2d(8, 4, 1, bias=False), side=9)
    nodes = graph.wiring().nodes
    assert nodes.parameters.tolist() == [(27 + 1) * 8 + 2 * 8 + 32]
    assert nodes.multiply_adds.tolist() == [(27 * 8 + 32) * 5 * 5]


class Halves(nn.Module):
    """A layer of one's own that returns every second row, scaled, and counts its calls."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(channels, 1, 1)), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        return (x * self.scale)[:, :, ::2]


class Padded(nn.Conv2d):
    """As in timm: as many outputs as TensorFlow's "same" gives."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 2, 1, 2)))


class PaddedPool(nn.MaxPool2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Looks(nn.Module):
    """Its size depends on what it sees."""

    def forward(self, x):
        return x if float(x.sum()) > 0 else x[:, :, :1]


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize(
    "chain",
    [
        [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, dilation=2, padding="same")],
        [nn.Conv2d(3, 8, 3, stride=(2, 1), padding=(0, 1)), nn.Conv2d(8, 4, 2, groups=2)],
        [nn.ConvTranspose2d(3, 8, 3, 2, output_padding=1, padding=1), nn.Conv2d(8, 4, 4, 3)],
        [nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 4, 2)],
        [nn.AvgPool2d(2, ceil_mode=True, padding=1), nn.Conv2d(3, 4, 2), nn.AdaptiveAvgPool2d(3),
         nn.Conv2d(4, 5, 2), nn.Flatten(), nn.Linear(20, 2)],
        [nn.Upsample(size=20), nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=(1.5, 2.0)),
         nn.Conv2d(4, 2, 2)],
        [nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(3, 4, 3), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 2)],
        [nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 4, 3), nn.PixelUnshuffle(2),
         nn.Conv2d(16, 2, 2)],
        [nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 2), nn.LPPool2d(2, 2), nn.Conv2d(4, 2, 1)],
        [nn.FractionalMaxPool2d(3, output_size=6), nn.Conv2d(3, 4, 3), nn.GLU(1), nn.GELU(),
         nn.GLU(), nn.BatchNorm2d(2), nn.Dropout2d(), nn.Conv2d(2, 4, 2)],
        [nn.Flatten(), nn.Linear(300, 32), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 4, 3)],
        [weight_norm(nn.Conv2d(3, 4, 3)), spectral_norm(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 2)],
        [nn.Sequential(nn.Conv2d(3, 4, 3), Halves(4)), Halves(4), nn.Conv2d(4, 2, 2)],
        [Padded(3, 4, 3, 2), nn.Conv2d(4, 4, 1), PaddedPool(3, 2), nn.Conv2d(4, 2, 1)],
    ],
)  # fmt: skip
def test_chains_of_layers_cost_what_they_compute(chain):
    graph = WiringBuilder()
    graph.add_layers("chain", *chain, side=10)
    own = sparse_multiply_adds(nn.Sequential(*chain), torch.zeros(1, 3, 10, 10))
    assert graph.wiring().nodes.multiply_adds.tolist() == [own.dense]


def test_layers_that_are_asked_for_sizes_stay_as_they_were():
    halves, conv, seen = Halves(3), nn.Conv2d(3, 4, 1), []
    halves.register_forward_hook(lambda *_: seen.append(1))
    state = torch.get_rng_state()
    count_multiply_adds(halves, nn.FractionalMaxPool2d(2, 2), conv, side=10)
    assert (int(halves.seen), halves.calls, seen) == (0, 0, [])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("layer", "known"), [(Looks(), False), (Sum(), True)])
def test_a_convolution_after_an_unknown_size_is_not_counted(layer, known):
    graph, convs = WiringBuilder(), (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    graph.add_layers("before", *convs, layer, nn.AdaptiveAvgPool2d(1), nn.Linear(2, 2), side=4)
    if known:  # of two branches that the block around it adds
        graph.add_layers("sum", convs[0], layer, convs[1], side=4)
    else:
        with pytest.raises(ValueError, match="of what Looks returns is not known: add it by"):
            graph.add_layers("after", convs[0], layer, convs[1], side=4)


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.Conv1d(3, 4, 1), nn.MultiheadAttention(4, 2)])
def test_layers_of_other_kinds_are_not_counted(layer):
    with pytest.raises(ValueError, match=f"{type(layer).__name__} are not counted here: add it by"):
        WiringBuilder().add_layers("layer", nn.Sequential(layer), side=4)


def test_nodes_of_a_group_may_have_numbers_of_their_own_or_be_none():
    graph = WiringBuilder()
    graph.add_node("in")
    assert graph.add_group("empty.node", 0, group_parameters=5).tolist() == []
    assert graph.add_group("g.node", torch.tensor([4, 7])).tolist() == [1, 2]
    wiring = graph.wiring()
    assert wiring.nodes.names == ("in", "g.node4", "g.node7")
    assert wiring.nodes.group.tolist() == [0, 1, 1]
    assert wiring.nodes.group_parameters.tolist() == [0, 0]


def test_a_column_of_targets_connects_everything():
    graph = WiringBuilder()
    first, second = graph.add_group("a.node", 2), graph.add_group("b.node", 3)
    graph.connect(first, second[:, None])
    assert edges_of(graph.wiring()) == [(0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4)]


@pytest.mark.parametrize("mode", ["learned", "random", "real"])
def test_a_gate_chooses_among_usable_slots_only(mode: str):
    usable = torch.ones(4, 4, dtype=torch.bool).tril()
    gate = Gate(4, 4, fan_in=2, mode=mode, usable=usable)
    graph = WiringBuilder()
    nodes = [graph.add_node(f"block{i}") for i in range(5)]
    prices = torch.tensor([1, 10, 100, 1000])
    graph.choose(nodes[:-1], nodes[1:], gate.choice(), parameters=prices)
    wiring = graph.wiring()
    pairs = [(k, j + 1) for j in range(4) for k in range(j + 1)]
    assert edges_of(wiring) == pairs
    assert wiring.active.tolist() == gate.best[usable].tolist()
    assert wiring.score.tolist() == gate.scores[usable].tolist()
    assert not wiring.score.requires_grad
    assert wiring.parameters.tolist() == [prices[k] for k, _ in pairs]
    choice = {"learned": [j > 2 for _, j in pairs], "random": [False] * 10, "real": [True] * 10}
    assert wiring.learnable.tolist() == choice[mode]
    frozen = WiringBuilder()
    for name in wiring.nodes.names:
        frozen.add_node(name)
    frozen.choose(nodes[:-1], nodes[1:], gate.eval().selection().choice())
    assert edges_of(frozen.wiring()) == pairs
    assert frozen.wiring().active.tolist() == (gate.weights()[usable] != 0).tolist()
    assert not frozen.wiring().learnable.any()


def test_columns_that_do_not_fit_are_refused():
    graph = WiringBuilder()
    graph.add_group("a.node", 4)
    with pytest.raises(ValueError, match=r"do not fit together: \[2\], \[3\]"):
        graph.connect([0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="2 entries, but 3 are needed"):
        make_wiring(["a", "b", "c"], [0], [1], [True], parameters=[1, 2])
    for group in ([0], [0, 0, 1, 1], torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="entries, but 3 are needed"):
            make_wiring(["a", "b", "c"], [0], [1], [True], group=group)


@pytest.mark.parametrize("ends", [(0, 2), (2, 0), (-1, 0)])
def test_edges_need_their_nodes(ends: tuple[int, int]):
    graph = WiringBuilder()
    graph.add_group("a.node", 2)
    graph.connect(*ends)
    with pytest.raises(ValueError, match="a node that is not below 2"):
        graph.wiring()


def test_live_nodes_are_counted_by_group():
    graph = WiringBuilder()
    graph.add_node("stem")
    branches = graph.add_group("m.branch", 3)
    graph.add_node("out", reads=branches[:2])
    graph.connect(0, branches[1:])
    assert graph.wiring().live_per_group() == {"stem": [1, 1], "m": [1, 3], "out": [1, 1]}


def test_a_wiring_lies_on_the_cpu_under_any_default_device():
    with torch.device("meta"):
        graph = WiringBuilder()
        graph.connect(graph.add_node("in"), graph.add_group("a.node", 2))
        wiring = graph.wiring()
    assert edges_of(wiring) == [(0, 1), (0, 2)]
    assert wiring.nodes.steps.tolist() == [1, 1, 1]


def test_groups_may_have_numbers_of_their_own():
    graph = WiringBuilder()
    graph.add_node("in", group=0)
    graph.add_node("any", group=2)
    graph.add_layers("name", nn.Linear(1, 1), side=1, group=2)
    graph.add_node("out")
    nodes = graph.wiring().nodes
    assert nodes.group.tolist() == [0, 2, 2, 3]
    assert nodes.group_parameters.tolist() == [0, 0, 0, 0]
