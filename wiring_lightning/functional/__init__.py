"""Pure tensor functions behind every method: no modules, no state, no Lightning."""

from wiring_lightning.functional.aggregation import (
    gated_sum,
    products_of_pairs,
    rectified_gated_sum,
)
from wiring_lightning.functional.batch_norm import fold_batch_norm, update_running_statistics
from wiring_lightning.functional.block_products import pointwise_product, rows_of_blocks
from wiring_lightning.functional.block_sums import BlockSums, PlainBlockSums, Space, lift
from wiring_lightning.functional.budgeted_search import (
    Topology,
    budgeted_objective,
    draw_edges,
    leave_one_out,
    log_probability,
    most_probable_edges,
    policy_gradient,
)
from wiring_lightning.functional.dnw import LargestMagnitudes, mask_largest
from wiring_lightning.functional.mask_connect import (
    normalize_scores,
    sample_k_distinct,
    score_entropy,
    straight_through,
    topk_mask,
)
from wiring_lightning.functional.pre_activation import (
    Statistics,
    channel_statistics,
    rectified_convolution,
)
from wiring_lightning.functional.seeds import derived_seed, seed_of_epoch, seed_of_step
from wiring_lightning.functional.sparse_product import sparse_product
from wiring_lightning.functional.sparsenet import (
    Pattern,
    check_pattern,
    last_reader,
    offsets,
    sources,
)

__all__ = [
    "BlockSums",
    "LargestMagnitudes",
    "Pattern",
    "PlainBlockSums",
    "Space",
    "Statistics",
    "Topology",
    "budgeted_objective",
    "channel_statistics",
    "check_pattern",
    "derived_seed",
    "draw_edges",
    "fold_batch_norm",
    "gated_sum",
    "last_reader",
    "leave_one_out",
    "lift",
    "log_probability",
    "mask_largest",
    "most_probable_edges",
    "normalize_scores",
    "offsets",
    "pointwise_product",
    "policy_gradient",
    "products_of_pairs",
    "rectified_convolution",
    "rectified_gated_sum",
    "rows_of_blocks",
    "sample_k_distinct",
    "score_entropy",
    "seed_of_epoch",
    "seed_of_step",
    "sources",
    "sparse_product",
    "straight_through",
    "topk_mask",
    "update_running_statistics",
]
