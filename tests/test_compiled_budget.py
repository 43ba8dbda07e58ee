"""What inductor plans is counted, and told as ratios to the plain twin."""

from functools import partial

import pytest
from torch import Tensor, nn
from typing_extensions import override

from benchmarks import compiled_budget
from benchmarks.compiled_budget import measure
from benchmarks.twins import SIDE, Pair
from wiring_lightning.backbones import NeuralGraph


class Doubled(nn.Module):
    """One kernel for two operations, and a linear layer."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * side * side, 10)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear((images * 2 + 1).flatten(1))
        return logits


def test_bytes_are_those_of_the_fused_kernels() -> None:
    batch, side = 8, 6
    images, weight, logits = batch * 3 * side * side, 10 * 3 * side * side, batch * 10
    plan, _ = measure(Doubled(side), batch, side)
    forward = 2 * images + images + weight + 10 + logits  # one pass for `* 2 + 1`, and the product
    backward = logits + images + weight + logits + 10  # the gradients of weight and bias
    assert plan.bytes == 4 * (forward + backward)
    assert plan.kernels == 4


@pytest.mark.slow
def test_the_table_has_a_row_for_each_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"nodes": 30, "inputs": 4, "outputs": 8, "depth": 2, "edges": 60}
    graph = partial(NeuralGraph, **sizes)
    pair = Pair("a graph", "two operations", graph, partial(Doubled, SIDE))
    monkeypatch.setattr(compiled_budget, "pairs", lambda tiny: {"resnet": pair})
    compiled_budget.main(["--tiny", "--batch", "2", "--networks", "resnet"])
    *_, plain, method = capsys.readouterr().out.splitlines()
    assert plain.startswith("| plain: two operations |")
    assert plain.endswith("| 1.00 | 1.00 |")
    assert method.startswith("| a graph |")
    assert not method.endswith("| 1.00 | 1.00 |")
