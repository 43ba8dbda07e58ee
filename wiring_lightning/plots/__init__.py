"""Pictures of a wiring: its graph, its live branches by depth, its scores.

Every function takes one `Wiring` and returns a matplotlib figure of its own; nothing is global and
no window opens. The colours stay apart for colour-blind readers and in print without colour.
"""

from wiring_lightning.plots.active_nodes import draw_active_nodes
from wiring_lightning.plots.graph import draw_wiring
from wiring_lightning.plots.save import save_figure
from wiring_lightning.plots.scores import draw_scores

__all__ = ["draw_active_nodes", "draw_scores", "draw_wiring", "save_figure"]
