"""Pure tensor functions behind every method: no modules, no state, no Lightning."""

from wiring_lightning.functional.aggregation import gated_sum, straight_through
from wiring_lightning.functional.batch_norm import fold_batch_norm
from wiring_lightning.functional.rectified import rectified_gated_sum
from wiring_lightning.functional.selection import normalize_scores, sample_k_distinct, topk_mask

__all__ = [
    "fold_batch_norm",
    "gated_sum",
    "normalize_scores",
    "rectified_gated_sum",
    "sample_k_distinct",
    "straight_through",
    "topk_mask",
]
