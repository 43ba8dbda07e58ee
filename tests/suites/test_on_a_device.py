"""Every method on a device that is not the CPU: what a GPU refuses is refused, and waits count.

The tables say how often the host waits for the device in a step of each method, and for how many
kernels. A wait that is new and one that is gone both fail, with their lines: change the table.
"""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from tests import simulated_device
from tests.methods import METHODS, Method, digits, over
from tests.simulated.autocast import simulate_autocast
from tests.simulated.trainer import simulated_trainer
from tests.simulated_device import RECORD, DeviceError, is_simulated, on_cpu, simulated
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.wiring import find_wired

pytestmark = pytest.mark.skipif(
    simulated_device.unavailable() is not None, reason=str(simulated_device.unavailable())
)

RECORDED = range(2, 4)  # the batches of an epoch in which waits and kernels are counted

# Waits of the host in a step, by file. A search reads its logits to choose the modules to run.
SEARCHES = {"nn/bernoulli_gate.py": 1}
LEARNING = {"resnet-fabric": SEARCHES, "conv-fabric": SEARCHES}
FROZEN: dict[str, dict[str, int]] = {}
# Its solver chooses each step by the error of the last one.
VARYING = {"continuous-graph": "nn/graph_dynamics.py"}

# Kernels of a step at most: learning, and frozen.
KERNELS = {
    "resnext-learned": (450, 400),
    "resnext-projected": (450, 400),
    "resnext-swap": (430, 400),
    "resnext-balanced": (520, 400),
    "resnext-real": (460, 400),
    "resnext-random": (400, 400),
    "resnext-full": (380, 380),
    "resnet-learned": (470, 400),
    "resnet-weighted": (490, 440),
    "resnet-random": (400, 400),
    "resnet-previous": (290, 290),
    "densenet-learned": (470, 330),
    "neural-graph": (250, 230),
    "discrete-graph": (180, 160),
    "continuous-graph": (1510, 1490),
    "random-edges": (230, 230),
    "no-update-rule": (260, 240),
    "l1-anneal": (230, 240),
    "targeted-dropout": (260, 260),
    "prune-and-retrain": (230, 230),
    "sparse-layers": (660, 390),
    "mobilenet-dnw": (430, 320),
    "mobilenet": (350, 350),
    "sparsenet": (920, 920),
    "sparse-resnet": (1080, 1080),
    "resnet-fabric": (290, 220),
    "conv-fabric": (280, 110),
    "outside": (70, 60),
}


@dataclass
class Step:
    """What the recorded steps of an epoch asked of the device, for one step."""

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    kernels: int = 0

    def waits_by_file(self) -> dict[str, float]:
        by_file: Counter[str] = Counter()
        for (_, line), count in self.waits.items():
            by_file[line.split(":")[0]] += count
        return {file: count / len(RECORDED) for file, count in by_file.items()}


class ChannelsLast(Callback):
    """Puts the network and its images into this memory format."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.to(memory_format=torch.channels_last)
        pl_module.backbone.register_forward_pre_hook(
            lambda _, args: (args[0].contiguous(memory_format=torch.channels_last),)
        )


class Watch(Callback):
    """Keeps the losses, and records some steps of each epoch."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.epochs: list[Step] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == RECORDED.start:
            self.recording = RECORD.recording()
            self.recording.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        loss = outputs["loss"].detach()
        self.losses.append(on_cpu(loss) if is_simulated(loss) else loss)
        if len(self.losses) % 5 == RECORDED.stop % 5:
            self.recording.__exit__(None, None, None)
            kernels = sum(RECORD.kernels.values()) // len(RECORDED)
            self.epochs.append(Step(RECORD.waits, kernels))


def fit(method: Method, make: Any, **kwargs: Any) -> tuple[LightningModule, Watch]:
    """Train for two epochs of five steps; what can be frozen is frozen in the second."""
    seed_everything(0)
    watch, callbacks = Watch(), method.new_callbacks()
    for callback in callbacks:
        if "freeze_epoch" in signature(type(callback)).parameters:
            callback.freeze_epoch = 1
    more = kwargs.pop("callbacks", [])
    resume = kwargs.pop("ckpt_path", None)
    task = method.task()
    settings = {"max_epochs": 2, "limit_train_batches": 5, "limit_val_batches": 1} | kwargs
    trainer = make(callbacks=[*callbacks, watch, *more], **settings)
    trainer.fit(task, digits(), ckpt_path=resume)
    return task, watch


@over(METHODS)
def test_computes_what_the_cpu_does_and_waits_as_the_table_says(method: Method) -> None:
    with simulated():
        _, watch = fit(method, simulated_trainer)
    _, expected = fit(method, quiet_trainer)
    # Other ways of computing the same; later steps amplify the last bits.
    torch.testing.assert_close(watch.losses[0], expected.losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.stack(watch.losses), torch.stack(expected.losses), rtol=0.05, atol=0.01
    )
    for table, step in zip((LEARNING, FROZEN), watch.epochs, strict=True):
        waits, lines = step.waits_by_file(), sorted(step.waits.items())
        if method.name in VARYING:
            assert set(waits) == {VARYING[method.name]}, lines
        else:
            assert waits == table.get(method.name, {}), lines
    kernels = [step.kernels for step in watch.epochs]
    assert all(map(lambda found, most: found <= most, kernels, KERNELS[method.name])), kernels


@over(METHODS)
def test_resumes_monitors_and_compacts(method: Method, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    logger = TensorBoardLogger(tmp_path, name="")
    with simulated() as device:
        whole, _ = fit(method, simulated_trainer, callbacks=[saver], enable_checkpointing=True)
        state = whole.state_dict()
        resumed, _ = fit(
            method,
            simulated_trainer,
            ckpt_path=tmp_path / "epoch=0.ckpt",
            callbacks=[WiringMonitor()] if find_wired(whole) else [],
            logger=logger,
        )
        assert same_state(resumed.state_dict(), state)
        backbone = whole.backbone.to(device).eval()
        images = torch.rand(4, 1, 8, 8)
        expected = backbone(images.to(device))
        assert expected.device == device
        torch.testing.assert_close(
            on_cpu(expected), deepcopy(backbone).cpu()(images), rtol=1e-3, atol=1e-4
        )
        if hasattr(backbone, "compact"):
            found = backbone.compact()(images.to(device))
            torch.testing.assert_close(on_cpu(found), on_cpu(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@over(METHODS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(method: Method, precision: Literal["bf16-mixed", "16-mixed"]) -> None:
    simulate_autocast()
    scaler = torch.amp.GradScaler("sim") if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "sim", scaler)
    with simulated():
        _, mixed = fit(method, simulated_trainer, max_epochs=method.epochs, plugins=plugin)
    _, full = fit(method, quiet_trainer, max_epochs=method.epochs)
    torch.testing.assert_close(mixed.losses[0], full.losses[0], rtol=0.05, atol=0.02)
    assert all(map(torch.isfinite, mixed.losses))
    waits = mixed.epochs[0].waits_by_file()
    scaled = waits.pop("precision/amp.py", 0)  # torch asks whether gradients are finite
    assert bool(scaled) == (scaler is not None)
    if method.name not in VARYING:
        assert waits == LEARNING.get(method.name, {}), mixed.epochs[0].waits


@pytest.mark.slow
@over(METHODS)
def test_channels_last(method: Method) -> None:
    with simulated():
        _, found = fit(
            method, simulated_trainer, max_epochs=method.epochs, callbacks=[ChannelsLast()]
        )
    _, expected = fit(method, quiet_trainer, max_epochs=method.epochs)
    torch.testing.assert_close(found.losses[0], expected.losses[0], rtol=1e-4, atol=1e-5)
    if method.name not in VARYING:
        assert found.epochs[0].waits_by_file() == LEARNING.get(method.name, {})


def test_the_simulation_refuses_what_a_gpu_refuses() -> None:
    with simulated() as device:
        here, there = torch.zeros(3, device=device), torch.ones(3)
        wrong = [
            lambda: here + there,
            lambda: there[here.long()],
            lambda: torch.cat([here, there]),
            lambda: here.exponential_(generator=torch.Generator()),
            lambda: torch.rand(3, generator=torch.Generator(device)),
            here.numpy,
        ]
        for call in wrong:
            with pytest.raises((DeviceError, TypeError)):
                call()
        assert (here + torch.tensor(1.0)).device == device  # a single number is allowed


def test_the_simulation_counts_waits() -> None:
    with simulated() as device:
        x = torch.arange(3.0, device=device)
        with RECORD.recording():
            float(x[0])
            x[x > 0]
            torch.ones(3).to(device)
            torch.ones(3).to(device, non_blocking=True)
            x.cpu()
            torch.tensor([1.0], device=device)
            x + 1
    assert sum(RECORD.waits.values()) == 5


def test_the_simulation_counts_kernels_and_bytes() -> None:
    with simulated() as device:
        x = torch.ones(1000, device=device)
        weights = [torch.ones(10, device=device) for _ in range(100)]
        with RECORD.recording():
            x + 1  # reads and writes 4,000 bytes
        assert (RECORD.kernels.total(), RECORD.bytes) == (1, 8000)
        with RECORD.recording():
            x.view(10, 100)[1:]
            torch.zeros_like(x)
        assert (RECORD.kernels.total(), RECORD.bytes) == (1, 4000)
        with RECORD.recording():
            torch._foreach_mul_(weights, 2.0)  # one kernel for many small tensors
        assert RECORD.kernels.total() == 3
        assert RECORD.bytes == 100 * (40 + 40)
