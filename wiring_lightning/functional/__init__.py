"""Pure tensor functions behind every method: no modules, no state, no Lightning."""

from wiring_lightning.functional.aggregation import (
    gated_sum,
    products_of_pairs as products_of_pairs,
    rectified_gated_sum,
)
from wiring_lightning.functional.balanced import balance_scores, balanced_mask
from wiring_lightning.functional.batch_norm import (
    fold_batch_norm,
    update_running_statistics as update_running_statistics,
)
from wiring_lightning.functional.batch_parts import (
    apply_in_parts as apply_in_parts,
    examples_per_part as examples_per_part,
    may_split as may_split,
)
from wiring_lightning.functional.block_inputs import BlockInputs as BlockInputs
from wiring_lightning.functional.block_products import (
    pointwise_product as pointwise_product,
    rows_of_blocks as rows_of_blocks,
)
from wiring_lightning.functional.block_sums import BlockSums as BlockSums
from wiring_lightning.functional.budgeted_search import (
    Topology,
    budgeted_objective,
    draw_edges,
    leave_one_out,
    log_probability,
    most_probable_edges,
    policy_gradient,
)
from wiring_lightning.functional.c_code import c_library as c_library
from wiring_lightning.functional.covering import sample_covering
from wiring_lightning.functional.densities import erdos_renyi_densities
from wiring_lightning.functional.dnw import LargestMagnitudes, mask_largest
from wiring_lightning.functional.mask_change import change_masks
from wiring_lightning.functional.mask_connect import (
    normalize_scores,
    project_scores,
    sample_k_distinct,
    score_entropy,
    straight_through,
    swap_worst,
    topk_mask,
)
from wiring_lightning.functional.mask_times import MaskTimes
from wiring_lightning.functional.n_of_m import mask_n_of_m
from wiring_lightning.functional.plain_block_sums import PlainBlockSums as PlainBlockSums
from wiring_lightning.functional.planted import (
    planted_edges as planted_edges,
    planted_sources as planted_sources,
)
from wiring_lightning.functional.pre_activation import (
    Statistics as Statistics,
    channel_statistics as channel_statistics,
    rectified_convolution as rectified_convolution,
)
from wiring_lightning.functional.seeds import (
    derived_seed as derived_seed,
    seed_of_epoch as seed_of_epoch,
    seed_of_step as seed_of_step,
)
from wiring_lightning.functional.spaces import Space as Space, lift as lift
from wiring_lightning.functional.sparse_product import sparse_product
from wiring_lightning.functional.sparsenet import (
    Pattern,
    check_pattern as check_pattern,
    last_reader as last_reader,
    offsets,
    sources,
)

# Names imported `as` themselves can be imported from here, but are not in `__all__`.
__all__ = [
    "LargestMagnitudes",
    "MaskTimes",
    "Pattern",
    "Topology",
    "balance_scores",
    "balanced_mask",
    "budgeted_objective",
    "change_masks",
    "draw_edges",
    "erdos_renyi_densities",
    "fold_batch_norm",
    "gated_sum",
    "leave_one_out",
    "log_probability",
    "mask_largest",
    "mask_n_of_m",
    "most_probable_edges",
    "normalize_scores",
    "offsets",
    "policy_gradient",
    "project_scores",
    "rectified_gated_sum",
    "sample_covering",
    "sample_k_distinct",
    "score_entropy",
    "sources",
    "sparse_product",
    "straight_through",
    "swap_worst",
    "topk_mask",
]
