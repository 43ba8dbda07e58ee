"""A fabric against a twin that computes every example on its own, edge by edge."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from wiring_lightning.functional import Space
from wiring_lightning.functional.subsets import WHOLE, exchange, split_batch
from wiring_lightning.nn import Fabric, FabricEdge
from wiring_lightning.nn.fabric_modules import SubsetBatchNorm2d, basic_block, convolution
from wiring_lightning.wiring import count_multiply_adds

SPACES = [Space(3, 1), Space(4, 1), Space(4, 2), Space(4, 1), Space(4, 2)]
BATCH = 12


def edges(module=nn.Sequential, norm=True):
    def conv(into, stride=1):
        layers = convolution(into, 4, 3, stride)
        nn.init.normal_(layers[1].bias)  # a batch norm that would leak a constant
        return layers if norm else layers[:1]

    return [
        FabricEdge("a.first", 0, 1, conv(3)),
        FabricEdge("a.second", 0, 1, conv(3)),
        FabricEdge("b.half", 1, 2, conv(4, 2)),
        FabricEdge("c.identity", 1, 3),
        FabricEdge("c.conv", 1, 3, conv(4)),
        FabricEdge("d.half", 3, 4, conv(4, 2)),
        FabricEdge("d.identity", 2, 4),
        FabricEdge("d.conv", 2, 4, conv(4)),
    ]


def make_fabric(seed=0, initial=0.3, **kwargs):
    torch.manual_seed(seed)
    fabric = Fabric(SPACES, edges(**kwargs), initial)
    fabric.gate.seed(seed)
    return fabric


def on_paths(drawn):
    """Edges of one example that lie between input and output; `drawn` are reachable ones."""
    kept = set(torch.as_tensor(drawn).nonzero().flatten().tolist())
    while True:
        listened = {SOURCES[edge] for edge in kept} | {len(SPACES) - 1}
        alive = {edge for edge in kept if TARGETS[edge] in listened}
        if alive == kept:
            return kept
        kept = alive


SOURCES = [edge.source for edge in edges()]
TARGETS = [edge.target for edge in edges()]


def twin(fabric, images, drawn):
    """The same by definition: every module sees a batch of exactly the examples that need it."""
    live = [on_paths(row) for row in drawn]
    states = {0: {example: images[example] for example in range(len(images))}}
    for node in range(1, len(SPACES)):
        states[node] = {}
        for edge in (edge for edge, target in enumerate(TARGETS) if target == node):
            members = [example for example in range(len(images)) if edge in live[example]]
            if not members:
                continue
            inputs = torch.stack([states[SOURCES[edge]][example] for example in members])
            module = fabric.module_of(edge)
            for example, output in zip(members, module(inputs) if module else inputs, strict=True):
                previous = states[node].get(example)
                states[node][example] = output if previous is None else previous + output
        states[node] = {example: functional.relu(x) for example, x in states[node].items()}
    zero = torch.zeros(4, images.shape[2] // 2, images.shape[3] // 2, dtype=images.dtype)
    return torch.stack([states[4].get(example, zero) for example in range(len(images))])


@pytest.mark.parametrize("channels_last", [False, True])
def test_sampled_forward_backward_and_statistics_equal_the_twin(channels_last):
    fabric = make_fabric(seed=1).double()
    images = torch.randn(BATCH, 3, 6, 6, dtype=torch.double)
    if channels_last:
        fabric, images = fabric.to(memory_format=torch.channels_last), images.contiguous(
            memory_format=torch.channels_last
        )  # fmt: skip
    other, others_images = copy.deepcopy(fabric), images.clone().requires_grad_()
    images.requires_grad_()
    state, connected = fabric(images)
    expected = twin(other, others_images, fabric.gate.drawn)
    torch.testing.assert_close(state, expected)
    assert not connected.all()
    assert connected.any()
    weights = torch.randn_like(state)
    (state * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(images.grad, others_images.grad)
    for (name, ours), (_, theirs) in zip(
        fabric.edge_modules.named_parameters(), other.edge_modules.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, ours), (_, theirs) in zip(
        fabric.named_buffers(), other.named_buffers(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_gradients_equal_finite_differences():
    fabric = make_fabric(seed=2).double()
    images = torch.randn(6, 3, 4, 4, dtype=torch.double, requires_grad=True)

    def forward(images):
        fabric.gate.seed(5)
        return fabric(images)[0]

    assert torch.autograd.gradcheck(forward, (images,), fast_mode=True)


def test_a_dead_example_has_a_state_of_exactly_zero():
    fabric = make_fabric(seed=3)
    state, connected = fabric(torch.randn(64, 3, 6, 6))
    assert state[~connected].eq(0).all()
    assert (state[connected].flatten(1) != 0).any(1).all()


def test_forcing_every_path_off_gives_zero_and_runs_nothing():
    fabric = make_fabric(initial=-1e9)
    before = copy.deepcopy(fabric.state_dict())
    for _ in range(2):
        state, connected = fabric(torch.randn(5, 3, 6, 6))
        assert state.shape == (5, 4, 3, 3)
        assert state.eq(0).all()
        assert not connected.any()
        fabric.eval()
    assert all(torch.equal(before[name], value) for name, value in fabric.state_dict().items())


def calls(fabric):
    """How many examples each module has seen."""
    seen = {}
    for name, module in fabric.edge_modules.items():
        module.register_forward_hook(
            lambda _, inputs, __, name=name: seen.__setitem__(name, len(inputs[0]))
        )
    return seen


def force(fabric, on):
    with torch.no_grad():
        fabric.gate.logits.copy_(
            torch.tensor([100.0 if name in on else -100.0 for name in fabric.names])
        )


def test_only_edges_between_input_and_output_are_computed():
    """`b.half` is there, but nothing leads on from it."""
    fabric = make_fabric()
    seen = calls(fabric)
    force(fabric, {"a.first", "a.second", "b.half", "c.conv", "d.half"})
    fabric(torch.randn(4, 3, 6, 6))
    assert seen == {"a_first": 4, "a_second": 4, "c_conv": 4, "d_half": 4}
    seen.clear()
    fabric.eval()(torch.randn(4, 3, 6, 6))
    assert set(seen) == {"a_first", "a_second", "c_conv", "d_half"}


def test_a_module_sees_the_examples_that_need_it():
    fabric = make_fabric(seed=4)
    seen = calls(fabric)
    fabric(torch.randn(BATCH, 3, 6, 6))
    live = [on_paths(row) for row in fabric.gate.drawn]
    counts = [sum(edge in row for row in live) for edge in range(len(SOURCES))]
    expected = {
        fabric.names[edge].replace(".", "_"): count
        for edge, count in enumerate(counts)
        if count and fabric.module_of(edge) is not None
    }
    assert seen == expected


def test_skipping_an_edge_that_leads_nowhere_changes_no_gradient():
    """Computed or not, it gets no gradient; its running statistics alone would differ."""
    fabric = make_fabric(norm=False).double()
    images = torch.randn(4, 3, 6, 6, dtype=torch.double)
    force(fabric, {"a.first", "b.half", "c.conv", "d.half"})
    fabric(images)[0].sum().backward()
    half = fabric.edge_modules["b_half"]
    assert all(p.grad is None for p in half.parameters())
    other = copy.deepcopy(fabric)
    other.zero_grad()
    state = other.edge_modules["a_first"](images).relu()
    _ = other.edge_modules["b_half"](state)
    other.edge_modules["d_half"](other.edge_modules["c_conv"](state).relu()).relu().sum().backward()
    for ours, theirs in zip(fabric.parameters(), other.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_warm_up_and_evaluation_compute_the_sum_of_all_edges():
    fabric = make_fabric(initial=3.0).double()
    images = torch.randn(4, 3, 6, 6, dtype=torch.double)
    fabric.gate.sampling = False
    everything = torch.ones(4, len(SOURCES), dtype=torch.bool)
    expected = twin(copy.deepcopy(fabric), images, everything)
    state, connected = fabric(images)
    torch.testing.assert_close(state, expected)
    assert connected is None
    torch.testing.assert_close(
        fabric.eval()(images)[0], twin(copy.deepcopy(fabric), images, everything)
    )


def test_nan_of_one_example_stays_there():
    fabric = make_fabric(seed=5, norm=False)
    images = torch.randn(BATCH, 3, 6, 6)
    images[0] = float("nan")
    state, _ = fabric(images)
    assert state[1:].isfinite().all()


def test_a_fabric_without_a_choice_has_no_gate():
    given = [
        FabricEdge(edge.name, edge.source, edge.target, edge.module, learnable=False)
        for edge in edges()
    ]
    fabric = Fabric(SPACES, given)
    assert fabric.gate is None
    assert fabric.best.all()
    images = torch.randn(3, 3, 6, 6)
    expected = twin(copy.deepcopy(fabric), images, torch.ones(3, len(SOURCES)).bool())
    torch.testing.assert_close(fabric(images)[0], expected)
    nowhere = Fabric(SPACES, given[:2])
    state, connected = nowhere(images)
    assert state.eq(0).all()
    assert not connected.any()


def test_autocast_keeps_the_state_in_low_precision():
    fabric = make_fabric(seed=6)
    images = torch.randn(BATCH, 3, 6, 6)
    other = copy.deepcopy(fabric)
    with torch.autocast("cpu", torch.bfloat16):
        state, _ = fabric(images)
    exact, _ = other(images)
    assert state.dtype == torch.bfloat16
    torch.testing.assert_close(state.float(), exact, atol=0.1, rtol=0.1)
    state.float().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in fabric.parameters())


def test_an_empty_batch_passes():
    state, _ = make_fabric()(torch.randn(0, 3, 6, 6))
    assert state.shape == (0, 4, 3, 3)


def test_two_edges_need_two_names():
    for name in ("a.first", "a_first"):
        with pytest.raises(ValueError, match="same name"):
            Fabric(SPACES, [edges()[0], FabricEdge(name, 1, 4)])


def test_split_batch_names_the_members():
    members = torch.rand(9, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    members[:, 0], members[:, 1] = True, False
    subsets = split_batch(members, torch.device("cpu"))
    assert subsets[0] is WHOLE
    assert subsets[1] is None
    for column, subset in zip(members.t()[2:], subsets[2:], strict=True):
        assert torch.equal(subset.mask, column)
        assert torch.equal(subset.rows, column.nonzero().flatten())


def test_exchange_of_whole_parts_leaves_them_as_they_are():
    part = torch.randn(3, 2)
    before = part.clone()
    for parts in ([part], [part, part]):
        state, _ = exchange(parts, [WHOLE] * len(parts), [True] * len(parts), [WHOLE], 3)
        torch.testing.assert_close(state, (before * len(parts)).relu())
    assert torch.equal(part, before)


def test_batch_norm_of_one_value_uses_running_statistics():
    norm = SubsetBatchNorm2d(3)
    twin = nn.BatchNorm2d(3)
    for _ in range(3):
        batch = torch.randn(4, 3, 2, 2) * 2 + 1
        torch.testing.assert_close(norm(batch), twin(batch))
    before = copy.deepcopy(norm.state_dict())
    one = torch.randn(1, 3, 1, 1, requires_grad=True)
    output = norm(one)
    torch.testing.assert_close(output, twin.eval()(one))
    output.sum().backward()
    torch.testing.assert_close(one.grad.flatten(), (norm.running_var + norm.eps).rsqrt())
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_multiply_adds_of_chains():
    assert count_multiply_adds(basic_block(3, 5, stride=2), side=7) == (3 * 5 + 5 * 5) * 9 * 4 * 4
    up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 5, 1), nn.Upsample(scale_factor=2))
    assert count_multiply_adds(up, side=4) == 15 * 64
    assert count_multiply_adds(nn.Linear(6, 7), side=99) == 42


def test_frozen_and_loaded_fabrics_run_what_evaluation_mode_ran():
    """While it learns evaluation mode asks the logits; once frozen the fabric knows its edges."""
    fabric, other = make_fabric().eval(), make_fabric(seed=1).eval()
    with torch.no_grad():  # `a.second` and the way through node 3 are left out
        fabric.gate.logits.copy_(torch.tensor([1.0, -1, 1, -1, -1, 1, 1, -1]))
    images = torch.randn(BATCH, 3, 8, 8)
    expected, _ = fabric(images)
    assert fabric.gate.fixed is None
    fabric.gate.freeze()
    assert {edge for edge, live in enumerate(fabric.gate.fixed) if live} == {0, 2, 6}
    state, nowhere = fabric(images)
    assert torch.equal(state, expected)
    assert nowhere is None
    other.load_state_dict(fabric.state_dict())
    assert other.gate.fixed == fabric.gate.fixed
    assert torch.equal(other(images)[0], expected)
    other.load_state_dict(make_fabric().state_dict())
    assert other.gate.fixed is None


# Node 3 has no edge into it; by number, source, target and whether it has a module.
UNREACHED = [
    [(0, 1, True), (1, 4, True), (3, 4, True)],
    [(0, 1, True), (0, 4, False), (1, 4, True), (3, 4, False)],
    [(0, 2, False), (2, 4, True), (3, 4, True), (3, 4, False)],
]


@pytest.mark.parametrize("statistics", ["drawn", "batch"])
@pytest.mark.parametrize("how", ["given", "warm-up", "sampled", "evaluated", "frozen"])
@pytest.mark.parametrize("rows", UNREACHED)
def test_edges_out_of_a_node_that_nothing_leads_to_are_never_active(rows, how, statistics):
    def build(rows):
        torch.manual_seed(0)
        made = [
            FabricEdge(f"e{number}", source, target, nn.Conv2d(4, 4, 1) if module else None,
                       learnable=how != "given")
            for number, (source, target, module) in enumerate(rows)
        ]  # fmt: skip
        fabric = Fabric([Space(4, 1)] * 5, made, initial=50.0, statistics=statistics)
        if fabric.gate is not None:
            fabric.gate.sampling = how == "sampled"
            if how == "frozen":
                fabric.gate.freeze()
        return fabric.train(how != "evaluated")

    images = torch.randn(3, 4, 5, 5)
    reached = [row for row in rows if row[0] != 3]  # they come first, so weights are the same
    (state, connected), (expected, _) = build(rows)(images), build(reached)(images)
    assert torch.equal(state, expected)
    assert connected is None
    assert build(rows).best.tolist() == [source != 3 for source, *_ in rows]


def test_a_frozen_fabric_without_a_path_says_so():
    fabric = make_fabric()
    fabric.gate.logits.data.fill_(-1.0)
    fabric.gate.freeze()
    state, connected = fabric(torch.randn(2, 3, 8, 8))
    assert not state.any()
    assert connected.tolist() == [False, False]
