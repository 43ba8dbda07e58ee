"""Optimizers for the scores behind a wiring; each works in a plain PyTorch loop too."""

from wiring_lightning.functional import mask_largest
from wiring_lightning.optim._skipped import step_was_skipped
from wiring_lightning.optim.budgeted_search import Reinforce
from wiring_lightning.optim.dnw import EdgeSet, StraightThrough, count_usable, mask_gradients
from wiring_lightning.optim.mask_connect import GateSGD
from wiring_lightning.optim.masked_weights import MaskedWeights, PrunedWeights
from wiring_lightning.optim.targeted_dropout import DroppedEdgeSet, WeightDropout
from wiring_lightning.optim.warmup_cosine import WarmupCosine

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
    "step_was_skipped",
]
