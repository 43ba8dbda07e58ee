"""What the benchmark of sparse layouts measures and says, with tiny layers; no time is checked."""

import argparse
import sys
from copy import deepcopy
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import sparse_layout
from benchmarks.sparse_cases import LinearCase, as_sparse, convolution, keep_some, sparse_network
from benchmarks.sparse_layout import CONVOLUTIONS, faster_up_to, measure
from wiring_lightning.nn import SparseConv2d, SparseLinear
from wiring_lightning.nn.replacing import replace_modules


def test_a_sparse_layout_is_faster_up_to_the_first_density_where_it_is_not() -> None:
    densities = [0.5, 0.01, 0.1, 0.2]
    assert faster_up_to(densities, [0.9, 0.3, 0.8, 1.0]) == 0.1
    assert faster_up_to(densities, [0.9, 1.1, 0.8, 0.7]) is None
    assert faster_up_to(densities, [0.9] * 4) == 0.5


@pytest.mark.parametrize("layer", [nn.Linear(32, 32), nn.Conv2d(32, 8, (2, 2))], ids=str)
def test_so_many_weights_are_kept(layer: nn.Linear | nn.Conv2d) -> None:
    keep_some(layer.weight, 0.25)
    assert int(layer.weight.count_nonzero()) == 256
    assert as_sparse(layer).weight.values().numel() == 256


def test_a_convolution_has_a_short_name() -> None:
    case = convolution("3x3:6:4:7")
    layer = case.layer()
    assert str(case) == "3x3 6 -> 4 at 7x7"
    assert layer(case.inputs(2)).shape == (2, 4, 7, 7)
    assert (layer.in_channels, layer.kernel_size, layer.bias) == (6, (3, 3), None)
    for wrong in ("3x1:6:4:7", "3x3:6:4", "3x3:6:0:7", "6"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"KxK:INPUTS:OUTPUTS:SIZE.*got"):
            convolution(wrong)


def test_the_default_convolutions_are_those_of_resnet50() -> None:
    network = sparse_network("resnet50", 1.0)
    found = set()

    def note(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
        kernel, size = layer.kernel_size[0], inputs[0].shape[2]
        if layer.stride == (1, 1):
            found.add(f"{kernel}x{kernel}:{layer.in_channels}:{layer.out_channels}:{size}")

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(note)
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert set(CONVOLUTIONS) <= found


def test_a_network_has_the_density_in_each_convolution() -> None:
    network = sparse_network("resnet18", 0.05)
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(weights) == 20
    for weight in weights:
        assert int(weight.count_nonzero()) == round(0.05 * weight.numel())
    assert network.fc.weight.all()


@pytest.mark.parametrize("case", [LinearCase(8), convolution("3x3:4:4:5")], ids=str)
def test_results_are_compared(case: sparse_layout.Case) -> None:
    layer, inputs = case.layer(), case.inputs(2)
    sparse = as_sparse(layer)
    assert type(sparse) in (SparseLinear, SparseConv2d)
    assert [len(times) for times in measure(sparse, layer, inputs, rounds=2)] == [2, 2]
    sparse.weight.values().mul_(1.5)
    with pytest.raises(AssertionError, match="not close"):
        measure(sparse, layer, inputs, rounds=1)


def run(monkeypatch: pytest.MonkeyPatch, file: Path, *arguments: str) -> str:
    """The table, by a clock that moves on by one whenever it is read."""
    monkeypatch.setattr(sparse_layout, "keep_freed_memory", lambda: None)  # it starts anew
    monkeypatch.setattr(sparse_layout, "_clock", lambda _: count().__next__)
    command = ["sparse_layout", *arguments, "--rounds", "1", "--markdown", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    sparse_layout.main()
    return file.read_text()


def test_the_table_has_a_row_for_each_layer_and_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--sizes", "8", "--convolutions", "1x1:4:6:5", "3x3:4:4:5", "--densities", "0.1"]
    text = run(monkeypatch, tmp_path / "a.md", *arguments, "--batches", "3", "--images", "1", "2")
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert table == [
        "| 8 x 8 | 3 | 1.00 (1.00 to 1.00) | never |",
        "| 1x1 4 -> 6 at 5x5 | 1 | 1.00 (1.00 to 1.00) | never |",
        "| 1x1 4 -> 6 at 5x5 | 2 | 1.00 (1.00 to 1.00) | never |",
        "| 3x3 4 -> 4 at 5x5 | 1 | 1.00 (1.00 to 1.00) | never |",
        "| 3x3 4 -> 4 at 5x5 | 2 | 1.00 (1.00 to 1.00) | never |",
    ]


def first_three_sparse(network: nn.Module, *_: object) -> nn.Module:
    copied = deepcopy(network)
    layers = [layer for layer in copied.modules() if isinstance(layer, nn.Conv2d)][:3]
    return replace_modules(copied, {layer: SparseConv2d(layer) for layer in layers})


def test_the_table_of_a_network_says_how_much_of_it_is_sparse(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["--network", "squeezenet1_1", "--image-size", "32", "--densities", "0.02", "0.5"]
    text = run(monkeypatch, tmp_path / "a.md", *arguments, "--images", "1")
    assert text.startswith("# Time of squeezenet1_1 at 32 x 32 after nn.store_sparse")
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert table == [
        "| 0.02 | 1 | 0 of 26 convolutions | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |",
        "| 0.5 | 1 | 0 of 26 convolutions | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |",
    ]


def test_the_convolutions_that_are_stored_sparse_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sparse_layout, "store_sparse", first_three_sparse)
    arguments = ["--network", "squeezenet1_1", "--image-size", "32", "--densities", "0.02"]
    text = run(monkeypatch, tmp_path / "a.md", *arguments, "--images", "1")
    assert "| 0.02 | 1 | 3 of 26 convolutions |" in text
