"""Which weights are sparse: classes with their subclasses, names of modules and parameters."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from tests.callbacks.reader import Reader, batches
from tests.trainers import quiet_trainer
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.callbacks import DNW, RandomEdges

DENSITY = 0.25


class Conv2dSame(nn.Conv2d):
    """Another class of the same kind, as timm has many."""


class ScaledStdConv2d(Conv2dSame):
    """And one of that."""


class Conv1D(nn.Module):
    """The linear layer of some transformers, which is no `nn.Linear`."""

    def __init__(self, out: int, into: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(into, out) * 0.1)
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight + self.bias


class Of(Reader):
    """Has other layers in place of the head's input: `[batch, 16]` in and out."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.middle = middle

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(self.first(images)).mean((2, 3))
        return self.head(self.transform(features))

    def transform(self, features: Tensor) -> Tensor:
        return self.middle(features)


class Recurrent(Of):
    def transform(self, features: Tensor) -> Tensor:
        return self.middle(features.unsqueeze(1))[0][:, -1]


class Attention(Of):
    def transform(self, features: Tensor) -> Tensor:
        sequence = features.unsqueeze(1)
        return self.middle(sequence, sequence, sequence)[0][:, -1]


class Image(Of):
    def transform(self, features: Tensor) -> Tensor:
        return self.middle(features[:, :, None, None]).flatten(1)


def fit(callback: Any, module: Reader) -> Reader:
    data = torch.utils.data.DataLoader(batches(4), batch_size=None)
    quiet_trainer(callbacks=[callback], precision="64-true").fit(module, data)
    return module


def share(weight: Tensor) -> float:
    return float((weight != 0).double().mean())


def conv(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    return kind(16, 16, 1)


@pytest.mark.parametrize(
    "module",
    [
        Image(conv(Conv2dSame)),
        Image(conv(ScaledStdConv2d)),
        Image(nn.ConvTranspose2d(16, 16, 1)),
        Of(Conv1D(16, 16)),
        Of(nn.Linear(16, 16)),
    ],
    ids=["subclass", "subclass of a subclass", "transposed", "Conv1D", "Linear"],
)
def test_a_density_is_for_all_usual_layers_whatever_their_subclass(module: Of) -> None:
    fit(DNW(density=DENSITY), module)
    assert share(module.middle.weight) == DENSITY
    assert share(module.head.weight) == DENSITY


def test_this_packages_own_network_has_its_density() -> None:
    network = ResNeXt(11, 4, 4, 2, in_channels=1, image_size=8, wiring="full")
    chosen = DNW(density=0.1).find_groups(None, network)  # type: ignore[arg-type]
    here = {id(weight) for group in chosen for weight in group.weights}
    matrices = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    assert here == {id(parameter) for parameter in matrices}
    assert sum(group.k for group in chosen) == sum(round(0.1 * p.numel()) for p in matrices)


@pytest.mark.parametrize("pattern", ["middle.weight_*", "LSTM", "middle"])
def test_weights_of_recurrent_layers_can_be_named(pattern: str) -> None:
    module = Recurrent(nn.LSTM(16, 16, batch_first=True))
    fit(DNW(density=DENSITY, layers=[pattern]), module)
    assert share(module.middle.weight_ih_l0) == DENSITY
    assert share(module.middle.weight_hh_l0) == DENSITY
    assert share(module.middle.bias_ih_l0) == 1
    assert share(module.head.weight) == 1


def test_one_parameter_of_several_can_be_named() -> None:
    module = Recurrent(nn.GRU(16, 16, batch_first=True))
    fit(DNW(density=DENSITY, layers=["middle.weight_hh_l0", "head.weight"]), module)
    assert share(module.middle.weight_hh_l0) == DENSITY
    assert share(module.middle.weight_ih_l0) == 1
    assert share(module.head.weight) == DENSITY


def test_the_joint_projection_of_attention_can_be_named() -> None:
    module = Attention(nn.MultiheadAttention(16, 2, batch_first=True))
    fit(DNW(density=DENSITY, layers=["Linear", "middle.in_proj_weight"]), module)
    assert share(module.middle.in_proj_weight) == DENSITY
    assert share(module.middle.out_proj.weight) == DENSITY


def test_a_parameter_of_the_module_itself_can_be_named() -> None:
    class Raw(Of):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.mixing = nn.Parameter(torch.randn(16, 16) * 0.3)

        def transform(self, features: Tensor) -> Tensor:
            return features @ self.mixing

    module = fit(DNW(density=DENSITY, layers=["mixing"]), Raw())
    assert share(module.mixing) == DENSITY


@pytest.mark.parametrize("exclude", [["head"], ["Linear"], ["head.weight"], ["h*"]])
def test_what_is_excluded_stays_dense(exclude: list[str]) -> None:
    module = fit(DNW(density=DENSITY, exclude=exclude), Reader())
    assert share(module.head.weight) == 1
    assert share(module.body[1].weight) == DENSITY


def test_tied_weights_are_one() -> None:
    module = Of(nn.Linear(16, 16))
    module.again = module.middle
    module.other = nn.Linear(16, 16)
    module.other.weight = module.middle.weight
    groups = DNW(density=DENSITY).find_groups(None, module)  # type: ignore[arg-type]
    assert [group.name for group in groups] == ["first", "body.1", "head", "middle"]
    fit(DNW(density=DENSITY), module)
    assert share(module.other.weight) == DENSITY


class Tied(Of):
    """An embedding and a linear layer share a matrix; either of them is defined first."""

    def __init__(self, embedding_first: bool) -> None:
        super().__init__(nn.Identity())
        embedding, linear = nn.Embedding(12, 12), nn.Linear(12, 12, bias=False)
        linear.weight = embedding.weight
        if embedding_first:
            self.embedding = embedding
        self.linear = linear
        self.embedding = embedding
        self.twin = linear  # the same layer under another name


TIED_CHOICES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"layers": ["Linear"]}, True),
    ({"layers": ["linear"]}, True),
    ({"layers": ["embedding"]}, True),
    ({"layers": ["Embedding", "head"]}, True),
    ({"layers": ["twin"]}, True),
    ({"density": {"twin": 0.25}}, True),
    ({"layers": ["head"], "groups": {"a": ["embedding", "first"]}}, True),
    ({"exclude": ["embedding"]}, False),
    ({"exclude": ["linear"]}, False),
    ({"layers": ["Linear"], "exclude": ["Embedding"]}, False),
    ({"layers": ["head"]}, False),
    ({"layers": ["body.*", "Linear"], "last_dense": True}, False),  # `twin` comes last
]


@pytest.mark.parametrize("embedding_first", [False, True])
@pytest.mark.parametrize(("arguments", "chosen"), TIED_CHOICES)
def test_a_tied_weight_is_chosen_by_any_of_its_names(
    arguments: dict[str, Any], chosen: bool, embedding_first: bool
) -> None:
    module = Tied(embedding_first)
    learner = DNW(**{"density": DENSITY, **arguments})
    found = learner.find_layers(module)
    weights = [weight.parameter for own in found.values() for weight in own]
    assert len({id(weight) for weight in weights}) == len(weights)
    assert any(weight is module.linear.weight for weight in weights) == chosen
    if "groups" in arguments:
        assert len(found["a"]) == 2


class LowRank(nn.Linear):
    """A frozen layer with an adapter of low rank."""

    def __init__(self) -> None:
        super().__init__(16, 16)
        self.weight.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, 16))
        self.up = nn.Parameter(torch.zeros(16, 4))


class Scaled(nn.Conv2d):
    """A convolution with gains of as many axes as its weight."""

    def __init__(self) -> None:
        super().__init__(16, 16, 1)
        self.gains = nn.Parameter(torch.ones(16, 1, 1, 1))


class TwoMatrices(nn.Module):
    """A layer of its own, in which `weight` is one of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.other = nn.Parameter(torch.randn(4, 4))


@pytest.mark.parametrize(
    ("layer", "layers", "names"),
    [
        (LowRank, None, []),
        (LowRank, ["Linear", "Conv2d"], []),
        (LowRank, ["Linear", "middle.down"], ["middle.down"]),
        (LowRank, ["middle", "head"], ["middle.down", "middle.up"]),
        (LowRank, ["LowRank", "head"], ["middle.down", "middle.up"]),
        (Scaled, None, ["middle.weight"]),
        (Scaled, ["Conv2d"], ["middle.weight"]),
        (TwoMatrices, ["TwoMatrices"], ["middle.weight", "middle.other"]),
        (lambda: nn.LSTM(4, 4), ["LSTM"], ["middle.weight_ih_l0", "middle.weight_hh_l0"]),
    ],
)
def test_a_class_means_the_weight_that_it_defines(
    layer: Any, layers: list[str] | None, names: list[str]
) -> None:
    found = DNW(density=DENSITY, layers=layers).find_layers(Of(layer()))
    chosen = [weight.name for own in found.values() for weight in own]
    assert [name for name in chosen if name.startswith("middle")] == names


def test_compiled_layers_are_found_by_their_names() -> None:
    module = Of(nn.Sequential(nn.Linear(16, 16)))
    module.middle = torch.compile(module.middle, backend="eager")
    fit(DNW(density=DENSITY, layers=["middle.0"]), module)
    assert share(next(module.middle.parameters())) == DENSITY


def test_lazy_layers_are_named() -> None:
    with pytest.raises(MisconfigurationException, match=r"middle.weight have no values yet"):
        DNW(density=DENSITY).find_groups(None, Of(nn.LazyLinear(16)))  # type: ignore[arg-type]


def test_scripted_layers_are_named() -> None:
    module = Of(torch.jit.script(nn.Linear(16, 16)))
    with pytest.raises(MisconfigurationException, match=r"middle.weight belong to TorchScript"):
        DNW(density=DENSITY, layers=["middle"]).find_groups(None, module)  # type: ignore[arg-type]


def scripted_parts() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Linear(4, 4)), torch.jit.script(nn.Linear(4, 2)))


@pytest.mark.parametrize("first_dense", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))),
        lambda: torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.ones(1, 4)),
        scripted_parts,
    ],
)
def test_a_network_of_scripted_layers_is_named(make: Any, first_dense: bool) -> None:
    learner = DNW(density=DENSITY, first_dense=first_dense)
    with pytest.raises(MisconfigurationException, match=r"0.weight.* belong to TorchScript"):
        learner.find_groups(None, make())  # type: ignore[arg-type]


def test_frozen_layers_are_named_and_left_alone() -> None:
    module = Reader()
    module.first.requires_grad_(False)
    before = module.first.weight.clone()
    with pytest.warns(UserWarning, match=r"DNW: first.weight stay as they are"):
        fit(DNW(density=DENSITY), module)
    torch.testing.assert_close(module.first.weight, before.double())
    module.requires_grad_(False)
    with pytest.raises(MisconfigurationException, match="do not learn"):
        DNW(density=DENSITY).find_groups(None, module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"layers": ["Conv2d", "Linaer"]}, "matches Linaer .in `layers`"),
        ({"layers": ["body.7", "head"]}, "matches body.7 .in `layers`"),
        ({"exclude": ["haed"]}, "matches haed .in `exclude`"),
        ({"groups": {"a": ["Conv2d", "hed"]}}, "matches hed .in `groups`"),
        ({"layers": ["body.0"]}, "matches body.0"),  # a norm has no matrix
        ({"layers": ["head"], "exclude": ["Linear"]}, "it has no such layer"),
        ({"layers": ["head"], "first_dense": True}, "beside the first layer"),
    ],
)
def test_a_pattern_without_a_match_is_an_error(arguments: dict[str, Any], named: str) -> None:
    for learner in (DNW, RandomEdges):
        with pytest.raises(MisconfigurationException, match=named):
            fit(learner(density=DENSITY, **arguments), Reader())


@pytest.mark.parametrize(
    ("one", "listed"),
    [
        ({"layers": "Linear"}, {"layers": ["Linear"]}),
        ({"exclude": "head"}, {"exclude": ["head"]}),
        ({"groups": {"a": "Conv2d"}}, {"groups": {"a": ["Conv2d"]}}),
        ({"vectors": "*.bias"}, {"vectors": ["*.bias"]}),
    ],
)
def test_one_string_is_one_pattern(one: dict[str, Any], listed: dict[str, Any]) -> None:
    first, second = (DNW(density=DENSITY, **arguments) for arguments in (one, listed))
    assert list(first.find_layers(Reader())) == list(second.find_layers(Reader()))
    assert first.state_key == second.state_key


def test_a_layer_that_lost_all_of_its_weights_to_its_group_is_named() -> None:
    module = Reader()
    with torch.no_grad():
        module.head.weight.mul_(1e-6)
    everything = {"all": ["Conv2d", "Linear"]}
    with pytest.warns(UserWarning, match="DNW: body.1.weight, head.weight have no weight left"):
        fit(DNW(edges=20, groups=everything), module)


def test_what_was_chosen_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(DNW(density=DENSITY, exclude=["head"]), Reader())
    assert "DNW: 2 layers, 1,224 -> 306 weights; dense: head" in caplog.messages


def test_densities_are_logged_on_request() -> None:
    data = torch.utils.data.DataLoader(batches(4), batch_size=None)
    groups = {"body": ["body.*"]}
    callback = DNW(density=DENSITY, groups=groups, log_density=True)
    trainer = quiet_trainer(callbacks=[callback], precision="64-true")
    trainer.fit(Reader(), data)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = ["", "/first", "/body", "/head"]
    assert logged.keys() == {
        f"learner/{kind}{name}"
        for kind in ("density", "changed", "dead_rows", "dead_columns")
        for name in names
    }
    assert [logged[f"learner/density{name}"] for name in names] == [DENSITY] * 4
