"""The loss of a pixel with deterministic algorithms on CUDA, against torch's own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from wiring_lightning.backbones import GatedHeads
from wiring_lightning.tasks import ClassificationTask, WiringComparison
from wiring_lightning.tasks._losses import LabelLosses
from wiring_lightning.tasks._pixel_losses import _selected, pixel_losses


def random_batch(ignored: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    logits = 20 * torch.randn(3, 4, 6, 5, dtype=dtype)
    labels = torch.randint(4, (3, 6, 5))
    labels[torch.rand(labels.shape) < 0.2] = ignored
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("ignored", [255, -100, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_cross_entropy_of_torch(ignored: int, dtype: torch.dtype) -> None:
    logits, labels = random_batch(ignored, dtype)
    expected = functional.cross_entropy(logits, labels, ignore_index=ignored, reduction="none")
    actual = _selected(logits, labels, ignored)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
    weights = torch.rand_like(expected)
    (wanted,) = torch.autograd.grad(expected, logits, weights)
    (gradient,) = torch.autograd.grad(actual, logits, weights)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-6)
    assert not gradient.movedim(1, -1)[labels == ignored].any()


def test_a_certain_and_wrong_pixel_has_no_nan_beside_it() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0]]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    labels = torch.tensor([[[1, 2]]])
    expected = functional.cross_entropy(logits, labels, reduction="none")
    assert expected[0, 0, 0] == torch.inf
    torch.testing.assert_close(_selected(logits, labels, -100), expected)


class Called(TorchDispatchMode):
    """The names of all operators that torch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def any_algorithm() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)  # a trainer of another test may have left them on
    yield
    torch.use_deterministic_algorithms(before)


Losses = Callable[[Tensor, Tensor], Tensor]


def of_pixels(logits: Tensor, labels: Tensor) -> Tensor:
    return pixel_losses(logits, labels, 255)


def operators(device: str, losses: Losses = of_pixels, shape: tuple[int, ...] = (4, 4)) -> set[str]:
    """What the loss calls, with tensors that have a device and no values."""
    with FakeTensorMode(), Called() as called:
        logits = torch.empty(2, 3, *shape, device=device)
        losses(logits, torch.zeros(2, *shape, dtype=torch.long, device=device))
    return called.names


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.75])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_weights_and_smoothing_are_those_of_torch(
    shape: tuple[int, ...], smoothing: float, weighted: bool, ignored: int
) -> None:
    logits = (3 * torch.randn(5, 4, *shape)).double().requires_grad_()
    labels = torch.randint(4, (5, *shape))
    labels[0] = ignored
    weights = torch.tensor([0.5, 1.0, 3.0, 0.0]).double() if weighted else None
    expected = functional.cross_entropy(
        logits, labels, weights, ignore_index=ignored, reduction="none", label_smoothing=smoothing
    )
    actual = _selected(logits, labels, ignored, weights, smoothing)
    assert torch.equal(pixel_losses(logits, labels, ignored, weights, smoothing), expected)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)
    factors = torch.rand_like(expected)
    (wanted,) = torch.autograd.grad(expected, logits, factors)
    (gradient,) = torch.autograd.grad(actual, logits, factors)
    torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-12)


def of_a_task(task: Any) -> Losses:
    return lambda logits, labels: task.losses(logits, labels, "train")


def backbone() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


# The losses of all tasks, and the shapes that are not one label for an example.
TASKS: dict[str, tuple[Losses, tuple[int, ...]]] = {
    "classification": (of_a_task(ClassificationTask(backbone())), (2,)),
    "smoothed": (of_a_task(ClassificationTask(backbone(), label_smoothing=0.1)), (2,)),
    "focal": (of_a_task(ClassificationTask(backbone(), loss="focal")), (2,)),
    "comparison": (of_a_task(WiringComparison(GatedHeads(num_classes=3))), (2,)),
    "smoothed pixels": (lambda *batch: LabelLosses("cross_entropy", 3)(*batch, 0.2), (4, 4)),
}


@pytest.mark.parametrize("case", TASKS)
def test_no_loss_of_a_task_needs_a_kernel_that_is_not_deterministic(case: str) -> None:
    torch.use_deterministic_algorithms(True)
    assert not any("nll_loss2d" in name for name in operators("cuda", *TASKS[case]))
    assert any("nll_loss2d" in name for name in operators("cpu", *TASKS[case]))


def test_only_deterministic_algorithms_on_cuda_need_it() -> None:
    torch.use_deterministic_algorithms(True)
    assert "nll_loss2d_forward" not in operators("cuda")
    assert "nll_loss2d_forward" in operators("cpu")


def test_elsewhere_it_is_the_kernel_of_torch() -> None:
    assert "nll_loss2d_forward" in operators("cuda")


def test_nothing_in_it_adds_in_any_order() -> None:
    logits, labels = random_batch(255, torch.float32)
    with Called() as called:
        _selected(logits, labels, 255).sum().backward()
    assert "_log_softmax_backward_data" in called.names
    for name in called.names:
        assert not any(part in name for part in ("nll_loss", "scatter", "gather", "index"))
