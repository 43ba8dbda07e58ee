"""Pictures of a wiring, of several, and of what they achieve: the figures of the papers.

Every `draw_` function takes values and returns a matplotlib figure of its own; nothing is global
and no window opens. The colours stay apart for colour-blind readers and in print without colour.
"""

from wiring_lightning.plots.accuracy import (
    Efficiency,
    Measurement,
    draw_accuracy,
    draw_efficiency,
)
from wiring_lightning.plots.channels import draw_channels, draw_degrees, is_channel_graph
from wiring_lightning.plots.fabric import draw_fabric, is_fabric
from wiring_lightning.plots.graph import draw_architecture, draw_connectivity, draw_wiring
from wiring_lightning.plots.heat_maps import ReusesFeatures, draw_feature_reuse, draw_scores
from wiring_lightning.plots.live import draw_active_by_depth, draw_active_nodes
from wiring_lightning.plots.masks import draw_masks
from wiring_lightning.plots.pareto import Candidate, draw_pareto, select
from wiring_lightning.plots.scaling import Scaling, draw_scaling
from wiring_lightning.plots.style import save_figure

__all__ = [
    "Candidate",
    "Efficiency",
    "Measurement",
    "ReusesFeatures",
    "Scaling",
    "draw_accuracy",
    "draw_active_by_depth",
    "draw_active_nodes",
    "draw_architecture",
    "draw_channels",
    "draw_connectivity",
    "draw_degrees",
    "draw_efficiency",
    "draw_fabric",
    "draw_feature_reuse",
    "draw_masks",
    "draw_pareto",
    "draw_scaling",
    "draw_scores",
    "draw_wiring",
    "is_channel_graph",
    "is_fabric",
    "save_figure",
    "select",
]
