"""Every method on the simulated device: resumed, compacted, in mixed precision, channels last."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision

from tests.methods import METHODS, WITH_CALLBACKS, Method, named, over
from tests.simulated.autocast import simulate_autocast
from tests.simulated.fits import LEARNING, VARYING, ChannelsLast, fit
from tests.simulated.process import in_own_process
from tests.simulated.trainer import simulated_trainer
from tests.simulated_device import on_cpu, simulated
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import WiringMonitor
from wiring_lightning.wiring import find_wired


@over(METHODS, "network")
@in_own_process
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


# Low precision changes what a network computes, so one of each family is enough. With float16 there
# is also a scaler, which every rule meets.
_FAMILIES = [
    named(name)
    for name in (
        "resnext-learned", "resnet-learned", "densenet-learned", "neural-graph", "mobilenet-dnw",
        "sparsenet", "sparse-resnet", "resnet-fabric", "conv-fabric", "outside",
    )
]  # fmt: skip


@pytest.mark.slow
@over(_FAMILIES)
@in_own_process
def test_bfloat16(method: Method) -> None:
    _mixed(method, "bf16-mixed")


@pytest.mark.slow
@over(WITH_CALLBACKS, "network")
@in_own_process
def test_float16(method: Method) -> None:
    _mixed(method, "16-mixed")


def _mixed(method: Method, precision: Literal["bf16-mixed", "16-mixed"]) -> None:
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
@over(METHODS, "network")
@in_own_process
def test_channels_last(method: Method) -> None:
    with simulated():
        _, found = fit(
            method, simulated_trainer, max_epochs=method.epochs, callbacks=[ChannelsLast()]
        )
    _, expected = fit(method, quiet_trainer, max_epochs=method.epochs)
    torch.testing.assert_close(found.losses[0], expected.losses[0], rtol=1e-4, atol=1e-5)
    if method.name not in VARYING:
        assert found.epochs[0].waits_by_file() == LEARNING.get(method.name, {})
