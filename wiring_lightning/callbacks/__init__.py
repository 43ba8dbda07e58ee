"""Callbacks that learn, schedule and show a wiring in any Lightning project."""

from wiring_lightning.callbacks.dnw import DNW
from wiring_lightning.callbacks.mask_connect import MaskConnect
from wiring_lightning.callbacks.phase_schedule import Phase, PhaseSchedule
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.callbacks.wiring_monitor import WiringMonitor

__all__ = ["DNW", "MaskConnect", "Phase", "PhaseSchedule", "WiringCallback", "WiringMonitor"]
