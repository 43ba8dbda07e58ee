"""Every method on the simulated device in mixed precision, and with channels last."""

from typing import Literal

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tests.methods import METHODS, WITH_CALLBACKS, Method, named, over
from tests.simulated.autocast import simulate_autocast
from tests.simulated.fits import LEARNING, VARYING, ChannelsLast, fit
from tests.simulated.process import in_own_process
from tests.simulated.trainer import simulated_trainer
from tests.simulated_device import simulated
from tests.trainers import quiet_trainer

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
