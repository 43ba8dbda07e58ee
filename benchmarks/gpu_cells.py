"""What `benchmarks.on_a_gpu` measures, one function a row of a table. They run in a worker."""

import gc
import logging
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass

import lightning
import torch
from torch import nn

from benchmarks.machine import describe, synchronize
from benchmarks.steps import Step, peak_memory, time_steps
from benchmarks.twins import CLASSES, SIDE, Learn, pairs, training_step
from tests.methods import digits, named
from tests.trainers import quiet_trainer

_ROUNDS = (6, 51)  # fewest, which still have an interval, and most


@dataclass(frozen=True)
class Setting:
    """How training steps are measured.

    Args:
        device: `"cuda"` or `"cpu"`.
        tiny: whether networks are those of a test.
        batch: number of images.
        amp: bfloat16 autocast instead of float32.
        backend: of `torch.compile`; without one, networks are not compiled.
        seconds: how long the timed rounds may take.
        rounds: their number instead.
    """

    device: str
    tiny: bool
    batch: int
    amp: bool
    backend: str | None = None
    seconds: float = 3.0
    rounds: int | None = None

    @property
    def precision(self) -> str:
        """The arithmetic, in a word."""
        return "bfloat16" if self.amp else "float32"


@dataclass(frozen=True)
class Times:
    """Milliseconds of each round, peak memory in MiB and seconds until the first steps were done.

    Each is a pair: of the method, and of its twin.
    """

    milliseconds: tuple[list[float], list[float]]
    memory: tuple[float, float]
    first: tuple[float, float]

    @property
    def medians(self) -> tuple[float, float]:
        """Milliseconds of a step."""
        method, twin = self.milliseconds
        return statistics.median(method), statistics.median(twin)


def step_times(name: str, setting: Setting) -> Times:
    """Training steps of a pair from `benchmarks.twins`, in turn."""
    torch.compiler.reset()
    gc.collect()
    if setting.device != "cpu":
        torch.cuda.empty_cache()
        _have_workspaces()
    torch.manual_seed(0)
    pair = pairs(setting.tiny)[name]
    images = torch.randn(setting.batch, 3, SIDE, SIDE, device=setting.device)
    labels = torch.randint(CLASSES, (setting.batch,), device=setting.device)
    batch = images, labels
    method, memory, first = _prepare(pair.network(), pair.learn, batch, setting)
    twin, twin_memory, twin_first = _prepare(pair.plain(), None, batch, setting)
    steps = {"method": method, "twin": twin}
    rounds = setting.rounds
    if rounds is None:
        trial = time_steps(steps, 1, setting.device)
        both = sum(times[0] for times in trial.values()) / 1e3
        rounds = min(max(int(setting.seconds / both), _ROUNDS[0]), _ROUNDS[1])
    times = time_steps(steps, rounds, setting.device)
    return Times((times["method"], times["twin"]), (memory, twin_memory), (first, twin_first))


def _have_workspaces() -> None:
    """Let cuBLAS take its memory, forward and backward, which belongs to no network."""
    square = torch.ones(64, 64, device="cuda", requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        (square.to(dtype) @ square.to(dtype)).sum().backward()


def _prepare(
    network: nn.Module,
    learn: Learn | None,
    batch: tuple[torch.Tensor, torch.Tensor],
    setting: Setting,
) -> tuple[Step, float, float]:
    """A step, its peak memory in MiB, and seconds until it was taken first."""
    on_gpu = setting.device != "cpu"
    held = torch.cuda.memory_allocated() / 2**20 if on_gpu else 0.0
    step = training_step(network.to(setting.device), learn, *batch, setting.amp)
    if setting.backend is not None:
        network.compile(backend=setting.backend, dynamic=False)
    start = time.perf_counter()
    step()
    synchronize(setting.device)
    first = time.perf_counter() - start
    step()  # momentum has its memory now
    return step, peak_memory(step, setting.device) - held, first


@dataclass(frozen=True)
class Training:
    """What a short training ended with."""

    epochs: int
    accuracy: float
    loss: float
    seconds: float


def train_on_digits(name: str, device: str, epochs: int, batches: int | None = None) -> Training:
    """Train a method of the registry on digits, and test it.

    Args:
        name: of a row in `tests.methods`.
        device: `"cuda"` or `"cpu"`.
        epochs: number of epochs, or as many as the method needs.
        batches: of an epoch; all by default.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    method = named(name)
    task, data = method.task(), digits(batch_size=32, augment=False)
    trainer = quiet_trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        deterministic=False,
        callbacks=method.new_callbacks(),
        max_epochs=max(epochs, method.epochs),
        limit_train_batches=batches,
    )
    start = time.perf_counter()
    trainer.fit(task, data)
    synchronize(device)
    seconds = time.perf_counter() - start
    loss = float(trainer.callback_metrics["train/loss"])
    (tested,) = trainer.test(task, data, verbose=False)
    return Training(trainer.current_epoch, tested["test/acc"], loss, seconds)


def machine_facts(device: str) -> str:
    """Device, driver, versions and cores."""
    facts = [describe(device, torch.get_num_threads())]
    if device != "cpu":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        facts += [f"{memory:.0f} GiB", f"driver {_driver()}", f"CUDA {torch.version.cuda}",
                  f"cuDNN {torch.backends.cudnn.version()}"]  # fmt: skip
    facts += [f"lightning {lightning.__version__}", f"Python {platform.python_version()}",
              f"{os.cpu_count()} cores"]  # fmt: skip
    return ", ".join(facts)


def device_name(device: str) -> str:
    """The name of the GPU, or `"cpu"`."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name()


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip().partition("\n")[0]
