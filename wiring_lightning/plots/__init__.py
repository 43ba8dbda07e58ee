"""Pictures of a wiring, of several, and of what they achieve: the figures of the papers.

Every function takes values and returns a matplotlib figure of its own; nothing is global and no
window opens. The colours stay apart for colour-blind readers and in print without colour.
"""

from wiring_lightning.plots.accuracy import Measurement, draw_accuracy
from wiring_lightning.plots.active_by_depth import draw_active_by_depth
from wiring_lightning.plots.active_nodes import draw_active_nodes
from wiring_lightning.plots.architecture import draw_architecture
from wiring_lightning.plots.channels import draw_channels, is_channel_graph
from wiring_lightning.plots.connectivity import draw_connectivity
from wiring_lightning.plots.degrees import draw_degrees
from wiring_lightning.plots.efficiency import Efficiency, draw_efficiency
from wiring_lightning.plots.fabric import draw_fabric, is_fabric
from wiring_lightning.plots.feature_reuse import ReusesFeatures, draw_feature_reuse
from wiring_lightning.plots.graph import draw_wiring
from wiring_lightning.plots.masks import draw_masks
from wiring_lightning.plots.pareto import Candidate, draw_pareto, select
from wiring_lightning.plots.save import save_figure
from wiring_lightning.plots.scaling import Scaling, draw_scaling
from wiring_lightning.plots.scores import draw_scores

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
