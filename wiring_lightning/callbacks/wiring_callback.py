"""What all callbacks that learn a wiring have in common."""

from abc import ABC, abstractmethod

from lightning.pytorch import Callback


class WiringCallback(Callback, ABC):
    """A callback that learns a wiring; `PhaseSchedule` steers it through these two methods."""

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the scores behind the wiring."""

    @abstractmethod
    def freeze(self) -> None:
        """Fix the wiring for good; calling it again changes nothing."""
