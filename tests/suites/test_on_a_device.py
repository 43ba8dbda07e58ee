"""Every method on a device that is not the CPU: what a GPU refuses is refused, and waits count.

One fit of each is compared with the CPU's, resumed from its middle, and its network compacted.

The tables say how often the host waits for the device in an epoch of each method, and for how many
kernels in a step. A wait that is new and one that is gone both fail, with their lines: change the
table.
"""

from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.func import functional_call

from tests.methods import METHODS, NETWORKS, Method, over
from tests.simulated.fits import FROZEN, LEARNING, VARYING, fit
from tests.simulated.process import in_own_process
from tests.simulated.trainer import simulated_trainer
from tests.simulated_device import RECORD, DeviceError, on_cpu, simulated
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.wiring import find_wired

# Kernels of a step at most: learning, and frozen.
KERNELS = {
    "resnext-learned": (450, 400),
    "resnext-projected": (450, 400),
    "resnext-swap": (430, 400),
    "resnext-balanced": (520, 400),
    "resnext-real": (460, 400),
    "resnext-random": (400, 400),
    "resnext-full": (380, 380),
    "resnet-learned": (340, 250),
    "resnet-weighted": (350, 290),
    "resnet-random": (270, 250),
    "resnet-previous": (240, 220),
    "densenet-learned": (400, 270),
    "neural-graph": (250, 230),
    "discrete-graph": (180, 160),
    "continuous-graph": (1710, 1390),
    "random-edges": (230, 230),
    "no-update-rule": (260, 240),
    "l1-anneal": (230, 240),
    "targeted-dropout": (260, 260),
    "prune-and-retrain": (230, 230),
    "sparse-layers": (460, 390),
    "rigl": (140, 140),
    "set": (90, 90),
    "mask-schedule": (90, 90),
    "gradual-pruning": (250, 250),
    "ac-dc": (90, 90),
    "n-of-m": (140, 70),
    "prune-at-start": (220, 220),
    "snip": (240, 220),
    "mobilenet-dnw": (430, 320),
    "mobilenet": (370, 350),
    "sparsenet": (260, 230),
    "sparse-resnet": (410, 380),
    "resnet-fabric": (290, 220),
    "conv-fabric": (280, 180),
    "outside": (70, 60),
}


# Networks and rules much like those of the other rows.
ALIKE = (
    "resnext-random", "resnet-previous", "densenet-learned", "targeted-dropout", "l1-anneal",
    "sparse-layers", "mobilenet-dnw", "sparse-resnet", "resnext-full", "resnet-random", "mobilenet",
)  # fmt: skip


@over(METHODS, slow=ALIKE)
@in_own_process
def test_computes_what_the_cpu_does_and_waits_as_the_table_says(
    method: Method, tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    with simulated() as device:
        task, watch = fit(method, simulated_trainer, callbacks=[saver], enable_checkpointing=True)
        if "network" not in method.without:
            _check_resumed(method, tmp_path, task)
            _check_network(task.backbone.to(device).eval())
    _, expected = fit(method, quiet_trainer)
    # Other ways of computing the same; later steps amplify the last bits.
    torch.testing.assert_close(watch.losses[0], expected.losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.stack(watch.losses), torch.stack(expected.losses), rtol=0.05, atol=0.01
    )
    for table, epoch in zip((LEARNING, FROZEN), watch.epochs, strict=True):
        waits, lines = epoch.waits_by_file(), sorted(epoch.waits.items())
        if method.name in VARYING:
            assert waits.pop(VARYING[method.name]) > 0, lines
        assert waits == table.get(method.name, {}), lines
    kernels = [epoch.kernels for epoch in watch.epochs]
    assert all(map(lambda found, most: found <= most, kernels, KERNELS[method.name])), kernels


def _check_resumed(method: Method, folder: Path, whole: nn.Module) -> None:
    """Resumed after the first epoch, and monitored, it ends with the same network."""
    monitored = find_wired(whole) is not None
    # The pictures are made, but need no rendering, in which no tensor takes part.
    with patch("wiring_lightning.callbacks.wiring_monitor.send_picture") as send_picture:
        resumed, _ = fit(
            method,
            simulated_trainer,
            ckpt_path=folder / "epoch=0.ckpt",
            callbacks=[WiringMonitor()] if monitored else [],
            logger=TensorBoardLogger(folder, name=""),
        )
    assert send_picture.called == monitored
    assert same_state(resumed.state_dict(), whole.state_dict())


def _check_network(backbone: nn.Module) -> None:
    """It answers on its device as on the CPU, and so does its compact form."""
    device, images = next(backbone.parameters()).device, torch.rand(4, 1, 8, 8)
    found = backbone(images.to(device))
    assert found.device == device
    answers = [deepcopy(backbone).cpu()(images)]
    if hasattr(backbone, "compact"):
        answers.append(on_cpu(backbone.compact()(images.to(device))))
    for answer in answers:
        torch.testing.assert_close(answer, on_cpu(found), rtol=1e-3, atol=1e-4)


@in_own_process
def test_all_tensors_of_a_network_are_its_parameters_and_buffers() -> None:
    """So whatever puts these elsewhere, such as a call with others in their place, moves all."""
    images = torch.rand(4, 1, 8, 8)
    with simulated() as device:
        for method in NETWORKS:
            network = method.backbone(**method.arguments)
            tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            there = {name: tensor.detach().to(device) for name, tensor in tensors.items()}
            found = on_cpu(functional_call(network.eval(), there, (images.to(device),)))
            torch.testing.assert_close(found, network(images), rtol=1e-4, atol=1e-5)
            functional_call(network.train(), there, (images.to(device),))


@in_own_process
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


@in_own_process
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


@in_own_process
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
