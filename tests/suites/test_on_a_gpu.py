"""Every method on a GPU: the numbers of the CPU, resuming, precisions, layouts, and checkpoints.

Where no GPU is, the same tests run on the CPU for a few methods, so that they are known to work.
`python -m benchmarks.on_a_gpu` runs this file and reports each test.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional

from tests.methods import METHODS, Method
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.data import Digits
from wiring_lightning.nn import find_bernoulli_gates
from wiring_lightning.tasks import ClassificationTask

Device = Literal["cpu", "cuda"]
# cuBLAS asks for this before its first call, or refuses to be deterministic.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
ON_CPU = ("resnext-learned", "neural-graph", "conv-fabric")
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")
ROWS = [
    pytest.param(method, device, id=f"{device}-{method.name}", marks=NO_GPU if on_gpu else ())
    for device, on_gpu in (("cpu", False), ("cuda", True))
    for method in METHODS
    if on_gpu or method.name in ON_CPU
]
over_devices = pytest.mark.parametrize(("method", "device"), ROWS)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """No TensorFloat-32, which has a mantissa of 10 bits; and no mode that outlives the test."""
    users = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [user.allow_tf32 for user in users]
    for user in users:
        user.allow_tf32 = False
    yield
    for user, allowed in zip(users, before, strict=True):
        user.allow_tf32 = allowed
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


class Losses(Callback):
    """Keeps the loss of every batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.losses.append(float(outputs["loss"]))


def few_digits() -> Digits:
    """197 images to train on: four steps an epoch."""
    return Digits(batch_size=50, val_size=1200)


def fit(
    method: Method,
    device: Device,
    *extra: Callback,
    resume: Path | None = None,
    seed: int = 0,
    **trainer: Any,
) -> ClassificationTask:
    """A task after four steps for each epoch that the method needs."""
    torch.manual_seed(seed)
    task = method.task()
    saves = any(isinstance(callback, ModelCheckpoint) for callback in extra)
    settings = {"max_epochs": method.epochs, "deterministic": False, "enable_checkpointing": saves}
    quiet_trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        callbacks=[*method.new_callbacks(), *extra],
        **{**settings, **trainer},
    ).fit(task, few_digits(), ckpt_path=resume)
    return task


def logits(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)


def some_images(device: Device, **kwargs: Any) -> Tensor:
    """Ten images, the same on every device."""
    return torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(5)).to(device, **kwargs)


def gradients(backbone: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch in training mode, and the gradient of each parameter, on the CPU."""
    for gate in find_bernoulli_gates(backbone).values():
        gate.seed(0)
    labels = torch.arange(len(images), device=images.device)
    loss = functional.cross_entropy(backbone.train()(images), labels)
    loss.backward()
    found = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return loss.detach().cpu(), {name: grad.cpu() for name, grad in found.items()}


def assert_same_gradients(
    ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]
) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    assert ours[1].keys() == theirs[1].keys()
    largest = max(float(grad.abs().max()) for grad in theirs[1].values())
    for name, expected in theirs[1].items():
        torch.testing.assert_close(ours[1][name], expected, rtol=1e-6, atol=1e-7 * largest)


@over_devices
def test_first_losses_are_those_of_the_cpu(method: Method, device: Device) -> None:
    here, expected = Losses(), Losses()
    fit(method, device, here)
    fit(method, "cpu", expected)
    assert len(here.losses) == 4 * method.epochs
    assert all(map(math.isfinite, here.losses))
    # Later ones differ: each device has its own random numbers, and draws the wiring from them.
    if method.name != "targeted-dropout":  # which draws before the first step, too
        assert here.losses[0] == pytest.approx(expected.losses[0], rel=1e-4)


@over_devices
def test_loss_and_gradients_are_those_of_the_cpu(method: Method, device: Device) -> None:
    """In float64, where rounding decides about no activation."""
    results = []
    for place in (device, "cpu"):
        torch.manual_seed(0)
        backbone = method.backbone(**method.arguments).double().to(place)
        results.append(gradients(backbone, some_images(place, dtype=torch.float64)))
    assert_same_gradients(*results)


@over_devices
def test_channels_last_computes_the_same(method: Method, device: Device) -> None:
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(0)
        backbone = method.backbone(**method.arguments).double().to(device, memory_format=layout)
        images = some_images(device, dtype=torch.float64).contiguous(memory_format=layout)
        results.append(gradients(backbone, images))
    assert_same_gradients(*results)


@over_devices
def test_resumed_run_equals_uninterrupted(method: Method, device: Device, tmp_path: Path) -> None:
    epochs = max(2, method.epochs)
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    # What is not deterministic warns here; the next test is about that.
    whole = fit(method, device, saver, max_epochs=epochs, deterministic="warn")
    resumed = fit(
        method, device, resume=tmp_path / "step=3.ckpt", seed=1, max_epochs=epochs,
        deterministic="warn",
    )  # fmt: skip
    assert resumed.trainer.global_step == 4 * epochs
    assert same_state(resumed.state_dict(), whole.state_dict())


@over_devices
def test_deterministic_run_has_the_same_result_twice(method: Method, device: Device) -> None:
    first, second = (fit(method, device, deterministic=True) for _ in range(2))
    assert same_state(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@over_devices
def test_mixed_precision_trains(method: Method, device: Device, precision: str) -> None:
    if device == "cpu" and precision == "16-mixed":
        pytest.skip("Lightning has 16-mixed for GPUs only")
    here, expected = Losses(), Losses()
    task = fit(method, device, here, precision=precision)
    fit(method, device, expected)
    assert all(map(math.isfinite, here.losses))
    assert here.losses[0] == pytest.approx(expected.losses[0], rel=0.1)
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in task.parameters())


@over_devices
def test_compact_network_computes_the_same(method: Method, device: Device) -> None:
    backbone = fit(method, device).backbone.to(device)
    images = some_images(device)
    compacted = backbone.compact()
    assert {p.device.type for p in compacted.parameters()} == {device}
    torch.testing.assert_close(
        logits(compacted, images), logits(backbone, images), atol=1e-4, rtol=1e-4
    )


@over_devices
def test_checkpoint_loads_on_a_cpu_and_trains_on(
    method: Method, device: Device, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "last", every_n_train_steps=1)
    task = fit(method, device, saver)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    torch.manual_seed(1)
    loaded = method.task()
    loaded.load_state_dict(saved["state_dict"])
    torch.testing.assert_close(
        logits(loaded.backbone, some_images("cpu")),
        logits(task.backbone.to(device), some_images(device)).cpu(),
        atol=1e-4,
        rtol=1e-4,
    )
    later = Losses()
    fit(method, "cpu", later, resume=tmp_path / "last.ckpt", max_epochs=method.epochs + 1)
    assert len(later.losses) == 4
    assert all(map(math.isfinite, later.losses))
