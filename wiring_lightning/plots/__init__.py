"""Pictures of wirings and of results: the figures of the papers.

Every `draw_` function returns a new matplotlib figure, uses no global state and opens no window. A
`title` is the headline. A `wiring` is one architecture; a batch of them, or nothing to draw, raises
a `ValueError`. The colours can be told apart by colour-blind readers and in grey print.
"""

from wiring_lightning.plots.accuracy import Efficiency, Measurement, draw_accuracy, draw_efficiency
from wiring_lightning.plots.channels import (
    draw_channels,
    draw_degrees,
    is_channel_graph as is_channel_graph,
)
from wiring_lightning.plots.densities import draw_densities
from wiring_lightning.plots.fabric import draw_fabric, is_fabric as is_fabric
from wiring_lightning.plots.graph import (
    draw_architecture,
    draw_connectivity,
    draw_side_by_side,
    draw_wiring,
)
from wiring_lightning.plots.heat_maps import (
    ReusesFeatures as ReusesFeatures,
    draw_feature_reuse,
    draw_scores,
)
from wiring_lightning.plots.live import draw_active_by_depth, draw_active_nodes
from wiring_lightning.plots.masks import draw_masks
from wiring_lightning.plots.pareto import Candidate, draw_pareto, select as select
from wiring_lightning.plots.random_wirings import RandomLive, live_of_random_wirings
from wiring_lightning.plots.scaling import Scaling, draw_scaling
from wiring_lightning.plots.seeds import draw_seeds
from wiring_lightning.plots.style import save_figure

# Names imported `as` themselves can be imported from here, but are not in `__all__`.
__all__ = [
    "Candidate",
    "Efficiency",
    "Measurement",
    "RandomLive",
    "Scaling",
    "draw_accuracy",
    "draw_active_by_depth",
    "draw_active_nodes",
    "draw_architecture",
    "draw_channels",
    "draw_connectivity",
    "draw_degrees",
    "draw_densities",
    "draw_efficiency",
    "draw_fabric",
    "draw_feature_reuse",
    "draw_masks",
    "draw_pareto",
    "draw_scaling",
    "draw_scores",
    "draw_seeds",
    "draw_side_by_side",
    "draw_wiring",
    "live_of_random_wirings",
    "save_figure",
]
