"""Optimizers for the scores behind a wiring; each works in a plain PyTorch loop too."""

from wiring_lightning.optim.gate_sgd import GateSGD
from wiring_lightning.optim.masked_weights import (
    MaskedWeights,
    PrunedWeights,
    count_usable,
    mask_gradients,
    mask_largest,
)
from wiring_lightning.optim.reinforce import Reinforce
from wiring_lightning.optim.straight_through import EdgeSet, StraightThrough
from wiring_lightning.optim.warmup_cosine import WarmupCosine
from wiring_lightning.optim.weight_dropout import DroppedEdgeSet, WeightDropout

__all__ = [
    "DroppedEdgeSet",
    "EdgeSet",
    "GateSGD",
    "MaskedWeights",
    "PrunedWeights",
    "Reinforce",
    "StraightThrough",
    "WarmupCosine",
    "WeightDropout",
    "count_usable",
    "mask_gradients",
    "mask_largest",
]
