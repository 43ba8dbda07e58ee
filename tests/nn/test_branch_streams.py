"""Separate branches image by image, against the modules one after another."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.nn.test_folding import scrambled
from wiring_lightning.nn import Branches, Selection
from wiring_lightning.nn.branch_streams import merged_chain
from wiring_lightning.nn.folding import fold_batch_norms

# Branches of each module, with its stride; the channels double where it is 2.
CHAINS = [
    [(3, 1)],
    [(3, 2)],
    [(3, 1), (3, 1), (3, 1)],
    [(2, 1), (4, 1), (3, 1)],
    [(1, 1), (1, 1)],
    [(3, 1), (2, 2), (4, 2)],
    [(4, 2), (1, 1), (3, 2)],
]


def chain(sizes: Sequence[tuple[int, int]]) -> list[Branches]:
    """Modules of which the first reads one state and the last merges, with used norms."""
    blocks, channels = [], 4
    for number, (branches, stride) in enumerate(sizes):
        block = Branches(
            branches, channels, 2, channels * stride, stride, shared_input=number == 0,
            merge=number == len(sizes) - 1, identity_scale=0.4,
        )  # fmt: skip
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                scrambled(norm)
        blocks.append(block.double().eval())
        channels *= stride
    return blocks


def selections(blocks: Sequence[Branches], kind: str) -> list[Selection]:
    found = []
    for earlier, later in pairwise(blocks):
        shape = later.branches, earlier.branches
        matrix = torch.rand(shape) if kind == "weighted" else torch.ones(shape).bernoulli_(0.6)
        if kind == "single":
            matrix = torch.eye(earlier.branches)[torch.arange(later.branches) % earlier.branches]
        if kind == "one of any":
            matrix = torch.eye(earlier.branches)[torch.randint(earlier.branches, shape[:1])]
        found.append(Selection(matrix.double(), matrix))
    return found


def one_after_another(
    state: Tensor, blocks: Sequence[Branches], connections: Sequence[Selection]
) -> Tensor:
    state = blocks[0](state)
    for block, selection in zip(blocks[1:], connections, strict=True):
        sums = torch.einsum("ts,bs...->bt...", selection.matrix, state)
        state = block(sums.relu())
    return state


@pytest.mark.parametrize("sizes", CHAINS, ids=str)
@pytest.mark.parametrize("kind", ["binary", "weighted", "single", "one of any"])
def test_a_chain_computes_what_its_modules_do_one_after_another(
    sizes: list[tuple[int, int]], kind: str
) -> None:
    torch.manual_seed(0)
    blocks = chain(sizes)
    connections = selections(blocks, kind)
    state = torch.randn(3, 1, 4, 7, 5, dtype=torch.float64)
    given = state.clone()
    expected = one_after_another(state, blocks, connections)
    with torch.no_grad():
        torch.testing.assert_close(merged_chain(given, blocks, connections), expected)
        for block in blocks:
            fold_batch_norms(block)
        torch.testing.assert_close(merged_chain(given, blocks, connections), expected)
    assert torch.equal(given, state)


def test_under_autocast_it_is_as_close_as_its_modules() -> None:
    torch.manual_seed(0)
    blocks = [block.float() for block in chain([(2, 1), (4, 2), (3, 1)])]
    connections = [selection.float() for selection in selections(blocks, "binary")]
    state = torch.randn(3, 1, 4, 8, 8)
    expected = one_after_another(state, blocks, connections)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = (one_after_another(state, blocks, connections) - expected).abs().max()
        ours = (merged_chain(state, blocks, connections) - expected).abs().max()
    assert ours < 2 * plain
