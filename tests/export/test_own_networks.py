"""Networks of other projects: what they may do, and what is said if a file cannot do it."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.export import (
    DescribedNetwork,
    ExportError,
    describe,
    export_network,
    load_exported,
    plain_network,
    trace,
    writing,
)
from wiring_lightning.nn import BernoulliGate, Gate

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Does(nn.Module):
    """A linear layer, and something before and after it."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = lambda images: images,
        after: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after, self.head = before, after, nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.head(self.before(images).flatten(1)))


class Gated(nn.Module):
    """The README's network: two rows of convolutions with a gate between them."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(1, 8, 3), gate
        self.second = nn.Conv2d(8, 8, 3, groups=4)
        gate.scores.data.uniform_()

    def forward(self, images: Tensor) -> Tensor:
        sources = self.first(images).relu().unflatten(1, (4, 2))
        return self.second(self.gate(sources).flatten(1, 2)).mean((2, 3))


class Drawn(Does):
    """A gate of a search, which says what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = BernoulliGate(3, [0, 0, 1], [1, 2, 2])
        self.gate.logits.data = torch.tensor([2.0, -2.0, 2.0])

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :3] * self.gate.draw(images.shape[0])


GATED = {
    "learned": lambda: Gated(Gate(4, 4, fan_in=2)),
    "real": lambda: Gated(Gate(4, 4, fan_in=2, mode="real")),
    "weighted": lambda: Gated(Gate(4, 4, fan_in=1, weighted=True)),
    "searched": Drawn,
}


@pytest.mark.parametrize("kind", GATED)
def test_a_gate_that_still_learns_is_written_as_in_evaluation(kind: str) -> None:
    torch.manual_seed(0)
    network = GATED[kind]()
    found = DescribedNetwork(*describe(trace(plain_network(network), IMAGES[0])))(IMAGES)
    assert network.gate.learnable  # it is as it was
    torch.testing.assert_close(found, network.eval()(IMAGES), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_gate_that_still_learns_has_an_onnx_form(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    export_network(GATED["learned"](), tmp_path / "net.onnx", IMAGES)


@pytest.mark.parametrize("suffix", [pytest.param(".pt2", marks=pytest.mark.slow), ".safetensors"])
def test_images_that_a_network_writes_into_stay(suffix: str, tmp_path: Path) -> None:
    images = IMAGES.clone()
    network = Does(before=lambda x: x.sub_(0.5).div_(0.25))
    export_network(network, tmp_path / f"net{suffix}", images)
    found = load_exported(tmp_path / f"net{suffix}", trust=True)(images)
    assert torch.equal(images, IMAGES)
    torch.testing.assert_close(found, network(images), atol=1e-5, rtol=1e-4)


def test_a_trace_leaves_every_mode_as_it_was() -> None:
    for before, traced in ((nn.Identity(), True), (lambda x: x[x > 0], False)):
        network = Does(before=before)
        network.add_module("frozen", nn.BatchNorm2d(1).eval())
        with nullcontext() if traced else pytest.raises(ExportError):
            trace(network, IMAGES[0])
        assert network.training
        assert not network.frozen.training


def test_a_buffer_that_changes_is_no_logit() -> None:
    class Counts(Does):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(images)

    network = Counts().eval()
    found = DescribedNetwork(*describe(trace(network, IMAGES[0])))(IMAGES)
    torch.testing.assert_close(found, network(IMAGES))


class Other(Does):
    """A network whose compact form is another function."""

    def wiring(self) -> Any: ...

    def compact(self) -> nn.Module:
        wrong = Does(after=lambda logits: self.after(logits.flip(1)))
        return wrong.to(self.head.weight)


SMALL = {
    "tiny": (torch.float32, lambda logits: logits * 1e-5),
    "probabilities": (torch.bfloat16, lambda logits: (8 * logits).softmax(1) / 8),
}


@pytest.mark.parametrize("kind", [pytest.param("tiny", marks=pytest.mark.slow), "probabilities"])
def test_small_answers_are_compared_by_their_own_size(kind: str, tmp_path: Path) -> None:
    dtype, after = SMALL[kind]
    network, images = Other(after=after).to(dtype), IMAGES.to(dtype)
    with pytest.raises(ExportError, match=r"compact\(\) is not the same function|differ by"):
        export_network(network, tmp_path / "net.pt2", images)
    done = export_network(Does(after=after).to(dtype), tmp_path / "net.pt2", images)
    assert done.agreement == 1
    assert done.largest < 1


def test_classes_that_are_masked_differ_by_nothing(tmp_path: Path) -> None:
    masked = torch.zeros(10).index_fill(0, torch.tensor([8, 9]), -torch.inf)
    done = export_network(Does(after=lambda x: x + masked), tmp_path / "net.pt2", IMAGES)
    assert done.difference < 1e-5
    assert 0 < done.largest < 10


REFUSED = {
    "gives logits that are no numbers": lambda: Does(after=lambda x: (-x.abs()).log()),
    "gives other logits for the same images": lambda: Does(after=functional.dropout),
    "adds noise, gives other logits": lambda: Does(before=lambda x: x + torch.randn_like(x)),
    "head.weight is on the device meta": lambda: Does().to("meta"),
    "the lazy layer of 1.weight": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_has_no_one_answer_is_refused_in_one_sentence(said: str, tmp_path: Path) -> None:
    network = REFUSED[said]()
    with pytest.raises(ExportError, match=re.escape(said.rpartition(", ")[2])) as error:
        export_network(network, tmp_path / "net.pt2", IMAGES)
    assert re.fullmatch(r"[^\n]+\.", str(error.value))
    assert "fault of the exporter" not in str(error.value)
    assert not list(tmp_path.iterdir())
    if isinstance(network, nn.Sequential):
        assert network[1].has_uninitialized_params()


def test_classes_that_rounding_changes_are_told(tmp_path: Path) -> None:
    class Close(Other):
        def compact(self) -> nn.Module:
            return Does(after=lambda logits: self.after(logits) - 1e-4 * torch.arange(10))

    network = Close(after=lambda logits: logits * 1e-5 + 10)
    with pytest.warns(UserWarning, match=r"gives the class of the Close for .*% of the images"):
        export_network(network, tmp_path / "net.pt2", IMAGES)


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, 3),
    "adaptive_max_pool3d": lambda x: functional.adaptive_max_pool3d(x[:, None], (1, 2, 2)),
    "stable sort": lambda x: x.sort(dim=-1, stable=True)[0],
    "topk": lambda x: x.topk(3, -1)[0],
    "median": lambda x: x.median(-1)[0],
    "kthvalue": lambda x: x.kthvalue(2)[0],
    "cumsum": lambda x: x.cumsum(-1),
    "cummax": lambda x: x.cummax(-1)[0],
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
    "unfold": lambda x: x.unfold(2, 3, 1),
    "bucketize": lambda x: x * torch.bucketize(x, torch.linspace(0, 1, 5)),
    "antialias": lambda x: functional.interpolate(x, size=5, mode="bilinear", antialias=True),
    "bicubic": lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic"),
}


@pytest.mark.slow
def test_pure_operators_are_described() -> None:
    class Applies(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([apply(images).flatten(1) for apply in OPERATORS.values()], 1)

    found = DescribedNetwork(*describe(trace(Applies(), IMAGES[0])))(IMAGES)
    torch.testing.assert_close(found, Applies()(IMAGES))


def test_another_operator_is_sent_to_another_format() -> None:
    network = Does(before=lambda x: torch.linalg.svdvals(x).repeat(1, 8, 1))
    with pytest.raises(ExportError, match=r"operator aten\._linalg_svd.* export it as \.pt2\.$"):
        describe(trace(network, IMAGES[0]))


def test_the_reason_of_onnx_is_the_first_cause_in_plain_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def fails(*_: Any, **__: Any) -> None:
        try:
            raise ValueError("No function for \x1b[96maten.sort\x1b[0m.\nMore.")
        except ValueError as error:
            raise RuntimeError("Failed to convert. Next steps:\n- Report it.") from error

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ExportError, match=r"\(No function for aten\.sort\): export it as \.pt2 or"):
        export_network(Does(), tmp_path / "net.onnx", IMAGES)


def test_a_file_in_double_precision_that_cannot_be_read_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(writing._WRITERS, ".pt2", lambda _program: b"hello")
    with pytest.raises(ExportError, match=r"convert it and the images with \.float\(\)\.$"):
        export_network(Does().double(), tmp_path / "net.pt2", IMAGES.double())
