"""Separate branches in C, against the modules one after another in float64."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.nn.test_folding import scrambled
from wiring_lightning.nn import Branches, Selection
from wiring_lightning.nn.branch_chain import branch_chain, can_chain
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.pointwise import PointwiseConv2d

pytestmark = pytest.mark.skipif(
    not can_chain([]), reason="this machine has no compiler for C, so nothing is computed in C"
)

# Branches of each module, with its stride; the channels double where it is 2.
CHAINS = [
    [(3, 1), (3, 1), (3, 1)],
    [(2, 1), (4, 1), (3, 1)],
    [(1, 1), (1, 1)],
    [(3, 1), (2, 2), (4, 2)],
    [(4, 2), (1, 1), (3, 2)],
]


def chain(sizes: Sequence[tuple[int, int]], width: int = 3, in_channels: int = 8) -> list[Branches]:
    """Modules of which the first reads one state and the last merges, with used norms."""
    blocks, channels = [], 8
    for number, (branches, stride) in enumerate(sizes):
        block = Branches(
            branches, channels if number else in_channels, width, channels * stride, stride,
            shared_input=number == 0, merge=number == len(sizes) - 1, identity_scale=0.4,
        )  # fmt: skip
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                scrambled(norm)
        blocks.append(block.eval())
        channels *= stride
    return blocks


NORMS = "reduce_norm", "spatial_norm", "expand_norm"


def projection(
    size: int = 1, bias: bool = False, track_running_stats: bool = True
) -> nn.Sequential:
    conv = nn.Conv2d(8, 8, size, padding=size // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(8, track_running_stats=track_running_stats)).eval()


def selections(blocks: Sequence[Branches], kind: str) -> list[Selection]:
    found = []
    for earlier, later in pairwise(blocks):
        shape = later.branches, earlier.branches
        matrix = torch.rand(shape) if kind == "weighted" else torch.ones(shape).bernoulli_(0.6)
        if kind == "single":
            matrix = torch.eye(earlier.branches)[torch.arange(later.branches) % earlier.branches]
        if kind == "one of any":
            matrix = torch.eye(earlier.branches)[torch.randint(earlier.branches, shape[:1])]
        found.append(Selection(matrix, matrix))
    return found


def one_after_another(
    state: Tensor, blocks: Sequence[Branches], connections: Sequence[Selection]
) -> Tensor:
    """In float64."""
    first, *others = [deepcopy(block).double() for block in blocks]
    state = first(state.double())
    for block, selection in zip(others, connections, strict=True):
        sums = torch.einsum("ts,bs...->bt...", selection.matrix.double(), state)
        state = block(sums.relu())
    return state


def assert_same(
    state: Tensor, blocks: Sequence[Branches], connections: Sequence[Selection]
) -> None:
    with torch.no_grad():
        expected = one_after_another(state, blocks, connections)
        given = state.clone()
        found = branch_chain(state, blocks, connections)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(given, state)


@pytest.mark.parametrize("sizes", CHAINS, ids=str)
@pytest.mark.parametrize("kind", ["binary", "weighted", "single", "one of any"])
def test_a_chain_computes_what_its_modules_do_one_after_another(
    sizes: list[tuple[int, int]], kind: str
) -> None:
    torch.manual_seed(0)
    blocks = chain(sizes)
    connections = selections(blocks, kind)
    state = torch.randn(3, 1, 8, 7, 5)
    assert can_chain(blocks)
    assert_same(state, blocks, connections)
    for block in blocks:
        fold_batch_norms(block)
    assert can_chain(blocks)
    assert_same(state, blocks, connections)


# The C code computes tiles of 8, 16 or 32 positions, and 4 rows of a product at once.
@pytest.mark.parametrize("width", [1, 2, 4, 5, 9])
@pytest.mark.parametrize(
    "side", [(1, 1), (1, 9), (3, 3), (4, 8), (5, 13), (16, 4), (11, 12)], ids=str
)
def test_images_and_branches_of_any_size(width: int, side: tuple[int, int]) -> None:
    torch.manual_seed(1)
    blocks = chain([(2, 2), (3, 1), (2, 2)], width)
    assert_same(torch.randn(2, 1, 8, *side), blocks, selections(blocks, "weighted"))


@pytest.mark.parametrize("in_channels", [1, 3, 8, 21])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [(4, 8), (7, 11)], ids=str)
def test_the_state_may_have_any_number_of_channels(
    in_channels: int, stride: int, side: tuple[int, int]
) -> None:
    torch.manual_seed(6)
    blocks = chain([(3, stride), (2, 1)], in_channels=in_channels)
    assert (blocks[0].projection is None) == (in_channels == 8 and stride == 1)
    assert_same(torch.randn(2, 1, in_channels, *side), blocks, selections(blocks, "weighted"))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_share_the_images(threads: int) -> None:
    torch.manual_seed(2)
    blocks = chain([(2, 1), (3, 1)])
    connections, before = selections(blocks, "binary"), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for images in (1, 2, 5):
            assert_same(torch.randn(images, 1, 8, 6, 6), blocks, connections)
        with torch.no_grad():
            assert branch_chain(torch.zeros(0, 1, 8, 6, 6), blocks, connections).shape[0] == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", ["images", "weights"])
def test_channels_last(layout: str) -> None:
    torch.manual_seed(3)
    blocks = chain([(2, 1), (3, 2), (3, 1)])
    connections, state = selections(blocks, "binary"), torch.randn(2, 8, 6, 6)
    if layout == "images":
        state = state.to(memory_format=torch.channels_last)
    else:
        blocks = [block.to(memory_format=torch.channels_last) for block in blocks]  # type: ignore[call-overload]
    assert_same(state.unsqueeze(1), blocks, connections)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_is_none_of_one_image_stays_there(value: float) -> None:
    torch.manual_seed(4)
    blocks = chain([(2, 1), (3, 1), (3, 1)])
    connections, state = selections(blocks, "binary"), torch.randn(3, 1, 8, 6, 6)
    with torch.no_grad():
        right = branch_chain(state, blocks, connections)
        state[1, 0, 3, 2, 2] = value
        found = branch_chain(state, blocks, connections)
        expected = one_after_another(state, blocks, connections)
    assert torch.equal(found[::2], right[::2])
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert not found[1].isfinite().all()


def test_what_is_counted_is_what_is_multiplied() -> None:
    torch.manual_seed(5)
    blocks = chain([(2, 1), (3, 2), (2, 1)], in_channels=5)
    connections = selections(blocks, "weighted")  # no two branches read the same sum
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        branch_chain(torch.randn(2, 1, 5, 6, 6), blocks, connections)
    by_hand, positions = 0, [36, 36, 9, 9]  # of the state, and of each module
    for block, streams, before, after in zip(
        blocks, [1, 3, 2], positions[:-1], positions[1:], strict=True
    ):
        by_hand += block.reduce.weight.numel() * before
        by_hand += (block.spatial.weight.numel() + block.expand.weight.numel()) * after
        if block.projection is not None:
            conv = block.projection.get_submodule("0")
            assert isinstance(conv, nn.Conv2d)
            by_hand += conv.weight.numel() * streams * after
    assert counter.get_total_flops() == 2 * 2 * by_hand


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda block: block.double(), False),
        (lambda block: block.spatial_norm.train(), False),
        (lambda block: block.expand.register_forward_hook(lambda *_: None), False),
        (lambda block: setattr(block, "spatial_norm", nn.GroupNorm(1, 6)), False),
        (lambda block: setattr(block.spatial, "padding_mode", "circular"), False),
        (lambda block: setattr(block, "spatial", nn.Conv2d(6, 6, 3, 1, 2, 2, 2)), False),
        (lambda block: setattr(block, "spatial", nn.Conv2d(6, 6, 5, 1, 2, 1, 2)), False),
        (lambda block: setattr(block, "spatial", nn.Conv2d(6, 6, 1, 1, 0, 1, 2)), False),
        (lambda block: setattr(block, "spatial", nn.Conv2d(6, 6, 3, 1, 1, 1, 1)), False),
        (lambda block: setattr(block, "projection", projection(track_running_stats=False)), False),
        (lambda block: setattr(block, "projection", projection().train()), False),
        (lambda block: setattr(block, "projection", projection(bias=True)), False),
        (lambda block: setattr(block, "projection", projection(size=3)), False),
        (lambda block: setattr(block, "projection", projection()), True),
        (lambda block: [setattr(block, name, nn.Identity()) for name in NORMS], True),
        (lambda block: setattr(block, NORMS[0], block.spatial_norm), True),
        (lambda block: setattr(block.reduce_norm, "running_mean", None), False),
        (lambda block: setattr(block.reduce, "bias", nn.Parameter(torch.ones(6))), False),
        (lambda block: block.requires_grad_(False), True),
    ],
    ids=[
        "double", "training", "hook", "another norm", "circular", "dilation", "5 x 5", "1 x 1",
        "no groups", "projection without statistics", "projection in training",
        "projection with bias and norm", "3 x 3 projection", "projection", "no norms",
        "one norm twice", "no statistics", "bias and norm", "frozen",
    ],
)  # fmt: skip
def test_what_is_not_as_it_was_made_is_not_computed_in_c(
    change: Callable[[Branches], object], expected: bool
) -> None:
    blocks = chain([(2, 1), (2, 1), (2, 1)])
    change(blocks[1])
    assert can_chain(blocks) == expected


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("spatial", nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        ("expand", PointwiseConv2d(4, 16, groups=2)),
        ("reduce", PointwiseConv2d(16, 8, groups=2)),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_layers_of_another_width_are_an_error(name: str, layer: nn.Module, number: int) -> None:
    blocks = chain([(2, 1), (2, 1), (2, 1)], width=3)
    connections = selections(blocks, "binary")
    if number == 0 and name == "reduce":
        layer = PointwiseConv2d(8, 8)
    setattr(blocks[number], name, layer)
    setattr(blocks[number], f"{name}_norm", nn.Identity())
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError), match=r"channels|shape|size"):
        branch_chain(torch.randn(1, 1, 8, 4, 4), blocks, connections)


def test_a_state_of_another_width_is_an_error() -> None:
    blocks = chain([(2, 1), (2, 1)])
    with torch.no_grad(), pytest.raises(ValueError, match="number of channels"):
        branch_chain(torch.randn(1, 1, 7, 4, 4), blocks, selections(blocks, "binary"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_a_state_in_another_precision_is_an_error(dtype: torch.dtype) -> None:
    blocks = chain([(2, 1), (2, 1)])
    state = torch.ones(1, 1, 8, 4, 4, dtype=dtype)
    with torch.no_grad(), pytest.raises(TypeError, match="compute in float32"):
        branch_chain(state, blocks, selections(blocks, "binary"))


def test_a_projection_that_is_gone_is_an_error() -> None:
    for number in (0, 1):
        blocks = chain([(2, 2), (2, 2)])
        blocks[number].projection = None
        with torch.no_grad(), pytest.raises(ValueError, match="number of channels"):
            branch_chain(torch.randn(1, 1, 8, 6, 6), blocks, selections(blocks, "binary"))


def test_channels_that_are_no_multiple_of_eight_are_not_computed_in_c() -> None:
    assert not can_chain([Branches(2, 4, 2, 4, shared_input=True).eval()])
