"""A Lightning trainer on the simulated device."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from tests.simulated_device import simulated_device
from tests.trainers import quiet_trainer


class SimulatedAccelerator(Accelerator):
    def setup_device(self, device: torch.device) -> None:
        """Nothing to do."""

    def teardown(self) -> None:
        """Nothing to do."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [simulated_device()]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "sim"


def simulated_trainer(**kwargs: Any) -> Trainer:
    """A trainer whose networks and batches are on the device; use it inside of `simulated()`."""
    accelerator = SimulatedAccelerator()
    strategy = SingleDeviceStrategy(simulated_device(), accelerator)
    return quiet_trainer(accelerator="auto", strategy=strategy, **kwargs)
