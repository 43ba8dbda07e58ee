"""Every method on the simulated device in mixed precision, and with channels last."""

from typing import Literal

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from tests.methods import LEARNERS, METHODS, Method, named, over
from tests.simulated.autocast import simulate_autocast
from tests.simulated.fits import LEARNING, VARYING, ChannelsLast, Watch, fit
from tests.simulated.process import in_own_process
from tests.simulated.trainer import simulated_trainer
from tests.simulated_device import simulated, simulated_device
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
@over([method for method in METHODS if method in [*_FAMILIES, *LEARNERS]], "network")
@in_own_process
def test_channels_last_and_low_precision(method: Method) -> None:
    expected = _on_cpu(method)
    with simulated():
        _, found = fit(
            method, simulated_trainer, max_epochs=method.epochs, callbacks=[ChannelsLast()]
        )
    torch.testing.assert_close(found.losses[0], expected.losses[0], rtol=1e-4, atol=1e-5)
    assert _known(method, found.epochs[0].waits_by_file()), found.epochs[0].waits
    if method in _FAMILIES:
        _check_mixed(method, "bf16-mixed", expected)
    if method.callbacks:
        _check_mixed(method, "16-mixed", expected)


def _on_cpu(method: Method) -> Watch:
    simulated_device()  # which must be there before the first backward pass
    return fit(method, quiet_trainer, max_epochs=method.epochs)[1]


def _check_mixed(method: Method, precision: Literal["bf16-mixed", "16-mixed"], full: Watch) -> None:
    simulate_autocast()
    scaler = torch.amp.GradScaler("sim") if precision == "16-mixed" else None
    plugin = MixedPrecision(precision, "sim", scaler)
    with simulated():
        _, mixed = fit(method, simulated_trainer, max_epochs=method.epochs, plugins=plugin)
    torch.testing.assert_close(mixed.losses[0], full.losses[0], rtol=0.05, atol=0.02)
    assert all(map(torch.isfinite, mixed.losses))
    waits = mixed.epochs[0].waits_by_file()
    scaled = waits.pop("precision/amp.py", 0)  # torch asks whether gradients are finite
    assert bool(scaled) == (scaler is not None)
    assert _known(method, waits), mixed.epochs[0].waits


def _known(method: Method, waits: dict[str, int]) -> bool:
    waits.pop(VARYING.get(method.name, ""), None)
    return waits == LEARNING[method.name]
