"""Multiply-adds by weight: against sums by hand, and against what was published for ResNet-50."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v3_small, resnet50

from tests.functional.test_densities import layers
from tests.methods import named
from wiring_lightning.costs import (
    layer_costs,
    multiply_adds,
    multiply_adds_by_weight,
    sparse_multiply_adds,
)
from wiring_lightning.costs.layers import known_multiply_adds
from wiring_lightning.functional import erdos_renyi_densities
from wiring_lightning.functional.densities import round_counts
from wiring_lightning.nn import SparseConv2d, SparseLinear

# RigL's README: operations at inference as a share of the dense network's, for ERK and for a
# uniform density with a dense first layer.
PUBLISHED = {0.2: (0.42, 0.23), 0.1: (0.24, 0.13), 0.05: (0.12, 0.08), 0.035: (0.09, 0.07)}


@pytest.fixture(scope="module")
def counted() -> tuple[nn.Module, dict[nn.Parameter, int]]:
    network = resnet50()
    return network, multiply_adds_by_weight(network, torch.zeros(1, 3, 224, 224))


def share(counts: dict[nn.Parameter, int], densities: list[float]) -> float:
    kept = sum(d * count for d, count in zip(densities, counts.values(), strict=True))
    return kept / sum(counts.values())


def test_resnet_50_costs_what_its_maps_say(
    counted: tuple[nn.Module, dict[nn.Parameter, int]],
) -> None:
    network, counts = counted
    by_hand = [layer.weight.numel() * pixels for layer, pixels in layers()]
    names = dict(network.named_parameters())
    in_order = [w for name, w in names.items() if w.dim() >= 2]
    assert [counts[weight] for weight in in_order] == by_hand
    assert sum(counts.values()) == 4_089_184_256  # printed as 4.1 billion


@pytest.mark.parametrize("density", PUBLISHED)
def test_sparse_resnet_50_costs_what_rigl_says(
    counted: tuple[nn.Module, dict[nn.Parameter, int]], density: float
) -> None:
    network, counts = counted
    shapes = [weight.shape for weight in counts]
    erk = erdos_renyi_densities(shapes, density)
    uniform = [1.0, *[density] * (len(counts) - 1)]
    erk_share, uniform_share = PUBLISHED[density]
    assert next(iter(counts)) is network.conv1.weight
    assert share(counts, erk) == pytest.approx(erk_share, abs=0.01)
    assert share(counts, uniform) == pytest.approx(uniform_share, abs=0.01)


def test_zeros_save_their_multiply_adds(counted: tuple[nn.Module, dict[nn.Parameter, int]]) -> None:
    network, counts = counted
    sizes = [weight.numel() for weight in counts]
    shares = erdos_renyi_densities([weight.shape for weight in counts], 0.1)
    kept = round_counts(shares, sizes, exact=True)
    with torch.no_grad():
        for weight, k in zip(counts, kept, strict=True):
            weight.fill_(1.0).view(-1)[k:] = 0
    cost = sparse_multiply_adds(network, torch.zeros(1, 3, 224, 224))
    assert cost.dense == 4_089_184_256
    pairs = zip(counts.values(), kept, sizes, strict=True)
    assert cost.sparse == sum(count // size * k for count, k, size in pairs)


class Functional(nn.Module):
    """Uses its weights by functions, and one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.other_weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.linear(inputs, self.weight)
        return (hidden @ self.other_weight.t()) @ self.weight.t()


class Crossed(nn.Module):
    """Attention that reads its keys elsewhere: three products with parts of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        answer, _ = self.layer(queries, keys, keys)
        return answer


class Standardized(nn.Conv2d):
    """Computes the weight of its convolution anew, with a scale as networks without norms have."""

    def __init__(self) -> None:
        super().__init__(4, 6, 3, bias=False)
        self.gain = nn.Parameter(torch.ones(6, 1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(inputs, weight * self.gain * 2.0, None)


class Autocast(nn.Linear):
    """Computes in another precision than it stores."""

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(inputs)


class Mixed(nn.Module):
    """Mixes the weights of its experts: two products, with the experts and with the mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6 * 4 * 9))

    def forward(self, inputs: Tensor) -> Tensor:
        shares = inputs.mean((1, 2, 3)).expand(1, 3)
        return nn.functional.conv2d(inputs, (shares @ self.weight).view(6, 4, 3, 3))


class Unusual(nn.Linear):
    """Multiplies with its weight, but not by a matrix product."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.unsqueeze(-2) * self.weight).sum(-1)


class Contracted(nn.Module):
    """Arranges its weight for a product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.einsum("bi,gio->bgo", inputs, self.weight)


def conv(**arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(4, 6, 3, **arguments)


CASES: dict[str, tuple[Callable[[], nn.Module], Any, list[int]]] = {
    "strides": (lambda: conv(stride=2), torch.zeros(1, 4, 9, 7), [216 * 4 * 3]),
    "padding": (lambda: conv(padding=1), torch.zeros(1, 4, 9, 7), [216 * 9 * 7]),
    "dilation": (lambda: conv(dilation=2), torch.zeros(1, 4, 9, 7), [216 * 5 * 3]),
    "groups": (lambda: conv(groups=2), torch.zeros(1, 4, 9, 7), [108 * 7 * 5]),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        torch.zeros(1, 4, 5, 5),
        [108 * 25],
    ),
    "volumes": (lambda: nn.Conv3d(2, 3, 2), torch.zeros(1, 2, 3, 4, 5), [48 * 2 * 3 * 4]),
    "sequences": (lambda: nn.Linear(5, 7, bias=False), torch.zeros(1, 11, 5), [35 * 11]),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 7)),
        torch.zeros(1, 3, dtype=torch.long),
        [35 * 3],
    ),
    "functions": (Functional, torch.zeros(1, 6), [48, 24]),
    "attention": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        torch.zeros(1, 3, 8),
        [192 * 3, 64 * 3, 128 * 3, 128 * 3],
    ),
    "cross attention": (
        Crossed,
        (torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)),
        [64 * 3 + 128 * 5, 64 * 3],
    ),
    "recurrent": (lambda: nn.GRU(3, 4), torch.zeros(5, 1, 3), [36 * 5, 48 * 5]),
    "standardized": (Standardized, torch.zeros(1, 4, 9, 7), [216 * 7 * 5]),
    "autocast": (lambda: Autocast(8, 4), torch.zeros(1, 8), [32]),
    "experts": (Mixed, torch.zeros(1, 4, 9, 7), [648 + 216 * 7 * 5]),
    "contracted": (Contracted, torch.zeros(1, 8), [192]),
    "parametrized": (lambda: parametrizations.weight_norm(conv()), torch.zeros(1, 4, 3, 3), [216]),
    "spectral": (lambda: parametrizations.spectral_norm(conv()), torch.zeros(1, 4, 3, 3), [216]),
}


@pytest.mark.parametrize("case", CASES)
def test_all_kinds_of_layers_are_counted_as_by_hand(case: str) -> None:
    make, example, expected = CASES[case]
    assert list(multiply_adds_by_weight(make(), example).values()) == expected


def test_a_layer_that_cannot_be_counted_is_not_known() -> None:
    network, example = nn.Sequential(Unusual(5, 4), nn.Linear(4, 2)), torch.zeros(1, 5)
    assert [row.multiply_adds for row in layer_costs(network, example)] == [None, 8]
    assert multiply_adds_by_weight(network, example) == {network[1].weight: 8}
    with pytest.raises(ValueError, match=r"multiply-adds of 0\.weight are not known"):
        sparse_multiply_adds(network, example)


def test_a_bilinear_layer_is_not_known() -> None:
    layer, example = nn.Bilinear(3, 4, 5), (torch.zeros(1, 3), torch.zeros(1, 4))
    assert [row.multiply_adds for row in layer_costs(layer, example)] == [None]
    with pytest.raises(ValueError, match="multiply-adds of weight are not known"):
        sparse_multiply_adds(layer, example)


def test_weights_of_the_older_weight_norm_are_counted() -> None:
    with pytest.warns(FutureWarning):
        layer = weight_norm(conv())
    counts = multiply_adds_by_weight(layer, torch.zeros(1, 4, 4, 4))
    assert counts == {layer.weight_v: 216 * 4}


def test_zeros_that_a_parametrization_fills_save_nothing() -> None:
    network = nn.Sequential(parametrizations.orthogonal(nn.Linear(16, 16)), nn.Linear(16, 3))
    example = torch.zeros(1, 16)
    assert [(row.kept, row.sparse) for row in layer_costs(network)] == [(256, False), (48, False)]
    network[0].parametrizations.weight.original.data[:, ::2] = 0
    network[1].weight.data[:, ::2] = 0
    row, last = layer_costs(network, example)
    kept = int(network[0].weight.count_nonzero())
    assert (row.kept, row.kept_multiply_adds, row.sparse) == (kept, kept, False)
    assert (last.kept, last.sparse) == (24, True)
    assert sparse_multiply_adds(network, example) == (304, kept + 24)


def test_tied_weights_count_each_time() -> None:
    network = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    network[2].weight = network[0].weight
    assert multiply_adds_by_weight(network, torch.zeros(1, 5)) == {network[0].weight: 50}


def test_nothing_of_the_network_changes() -> None:
    network = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.Dropout(), nn.Conv2d(6, 2, 1))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    with torch.inference_mode():
        in_inference = sparse_multiply_adds(network, torch.ones(1, 4, 5, 5))
    assert sparse_multiply_adds(network, torch.ones(1, 4, 5, 5)) == in_inference
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(hooks for m in network.modules() for hooks in [m._forward_pre_hooks])
    with pytest.raises(RuntimeError, match="channels"):
        multiply_adds_by_weight(network, torch.ones(1, 3, 5, 5))
    assert [module.training for module in network.modules()] == modes
    assert not any(hooks for m in network.modules() for hooks in [m._forward_pre_hooks])


def test_random_numbers_of_the_run_are_left_alone() -> None:
    class Noisy(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs + torch.randn_like(inputs))

    layer = Noisy(3, 3)
    before = torch.random.get_rng_state()
    multiply_adds_by_weight(layer, torch.ones(1, 3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_networks_without_attention_agree_with_the_counter_of_torch() -> None:
    network, image = mobilenet_v3_small().eval(), torch.zeros(1, 3, 64, 64)
    dense, sparse = sparse_multiply_adds(network, image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert dense == sparse == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    "name",
    [
        "resnet-learned", "mobilenet", "sparsenet", "sparse-resnet", "resnext-learned",
        "resnext-full", "densenet-learned",
    ],
)  # fmt: skip
def test_a_network_with_a_wiring_costs_what_its_wiring_says(name: str) -> None:
    method = named(name)
    whole = method.backbone(**method.arguments)
    for network in (whole, whole.compact()):
        counts = known_multiply_adds(network, torch.zeros(1, 1, 8, 8))
        assert counts is not None
        assert sum(counts.values()) == int(multiply_adds(network.wiring(), live=False))


@pytest.mark.parametrize("name", ["neural-graph", "mobilenet-dnw"])
def test_what_is_computed_in_another_way_is_not_known(name: str) -> None:
    method = named(name)
    network, image = method.backbone(**method.arguments), torch.zeros(1, 1, 8, 8)
    assert known_multiply_adds(network, image) is None
    assert {layer.multiply_adds for layer in layer_costs(network, image)} == {None}


def test_layers_that_are_stored_as_csr_cost_what_they_did_before() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5)
    )
    for weight in network.parameters():
        weight.data *= torch.rand_like(weight) < 0.3
    image = torch.zeros(1, 3, 4, 4)
    packed = deepcopy(network)
    packed[0], packed[2] = SparseConv2d(network[0]), SparseConv2d(network[2])
    packed[4] = SparseLinear(network[4])
    by_hand = [
        16 * int(network[0].weight.count_nonzero()),
        16 * int(network[2].weight.count_nonzero()),
    ]
    by_hand.append(int(network[4].weight.count_nonzero()))
    assert sparse_multiply_adds(packed, image) == (16 * (216 + 32) + 320, sum(by_hand))
    assert layer_costs(packed, image) == layer_costs(network, image)
    assert [row.kept_multiply_adds for row in layer_costs(packed, image)] == by_hand


class Recurrent(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        return self[0](inputs)[0]


@pytest.mark.parametrize("number", [torch.qint8, torch.float16])
def test_products_with_packed_weights_are_not_known(number: torch.dtype) -> None:
    for network, example in (
        (nn.Sequential(nn.Conv1d(3, 3, 1), nn.Linear(4, 2)), torch.zeros(1, 3, 4)),
        (Recurrent(nn.LSTM(4, 2)), torch.zeros(3, 1, 4)),
    ):
        with warnings.catch_warnings(action="ignore"):
            packed = quantize_dynamic(network, {nn.Linear, nn.LSTM}, number)
        with pytest.raises(ValueError, match=r"of \w+::\S+ are not known.*before its layers are"):
            sparse_multiply_adds(packed, example)


def test_a_network_without_weights_is_refused() -> None:
    for network in (nn.LazyLinear(4), nn.Linear(3, 4, device="meta")):
        with pytest.raises(ValueError, match="has no weights"):
            sparse_multiply_adds(network, torch.zeros(1, 3))
