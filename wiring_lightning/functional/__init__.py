"""Pure tensor functions behind every method: no modules, no state, no Lightning."""

from wiring_lightning.functional.aggregation import gated_sum, products_of_pairs, straight_through
from wiring_lightning.functional.batch_norm import fold_batch_norm
from wiring_lightning.functional.block_sums import BlockSums, PlainBlockSums, Space, lift
from wiring_lightning.functional.rectified import rectified_gated_sum
from wiring_lightning.functional.selection import normalize_scores, sample_k_distinct, topk_mask

__all__ = [
    "BlockSums",
    "PlainBlockSums",
    "Space",
    "fold_batch_norm",
    "gated_sum",
    "lift",
    "normalize_scores",
    "products_of_pairs",
    "rectified_gated_sum",
    "sample_k_distinct",
    "straight_through",
    "topk_mask",
]
