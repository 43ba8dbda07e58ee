"""Optimizers for the scores behind a wiring; each works in a plain PyTorch loop too."""

from wiring_lightning.optim.gate_sgd import GateSGD
from wiring_lightning.optim.straight_through import EdgeSet, StraightThrough

__all__ = ["EdgeSet", "GateSGD", "StraightThrough"]
