"""Optimizers for the scores behind a wiring; each works in a plain PyTorch loop too."""

from wiring_lightning.functional import mask_largest as mask_largest
from wiring_lightning.optim._counts import (
    count_present as count_present,
    count_usable as count_usable,
)
from wiring_lightning.optim._masks import mask_gradients as mask_gradients
from wiring_lightning.optim._parameters import parameters_of as parameters_of
from wiring_lightning.optim._skipped import step_was_skipped as step_was_skipped
from wiring_lightning.optim._states import with_wrapped as with_wrapped
from wiring_lightning.optim.budgeted_search import Reinforce
from wiring_lightning.optim.dnw import EdgeSet, StraightThrough
from wiring_lightning.optim.mask_connect import GateSGD
from wiring_lightning.optim.mask_scores import Seen as Seen
from wiring_lightning.optim.masked_weights import MaskedWeights as MaskedWeights, PrunedWeights
from wiring_lightning.optim.n_of_m import BlockEdgeSet, SparseRefined
from wiring_lightning.optim.scheduled_masks import ScheduledMasks
from wiring_lightning.optim.targeted_dropout import DroppedEdgeSet as DroppedEdgeSet, WeightDropout
from wiring_lightning.optim.warmup_cosine import WarmupCosine

# Names imported `as` themselves can be imported from here, but are not in `__all__`.
__all__ = [
    "BlockEdgeSet",
    "EdgeSet",
    "GateSGD",
    "PrunedWeights",
    "Reinforce",
    "ScheduledMasks",
    "SparseRefined",
    "StraightThrough",
    "WarmupCosine",
    "WeightDropout",
]
