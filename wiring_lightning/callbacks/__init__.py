"""Callbacks that learn, schedule and show a wiring in any Lightning project."""

from wiring_lightning.callbacks._checked_wiring import WiringError
from wiring_lightning.callbacks.acdc import ACDC
from wiring_lightning.callbacks.budgeted_search import BudgetedSearch
from wiring_lightning.callbacks.dnw import DNW
from wiring_lightning.callbacks.gradual_pruning import GradualPruning
from wiring_lightning.callbacks.l1_anneal import L1Anneal
from wiring_lightning.callbacks.mask_connect import MaskConnect
from wiring_lightning.callbacks.n_of_m import NMSparsity
from wiring_lightning.callbacks.no_update_rule import NoUpdateRule
from wiring_lightning.callbacks.phase_schedule import Phase, PhaseSchedule
from wiring_lightning.callbacks.prediction_writer import PredictionWriter
from wiring_lightning.callbacks.prune_and_retrain import PruneAndRetrain
from wiring_lightning.callbacks.prune_at_start import SNIP, PruneAtStart
from wiring_lightning.callbacks.random_edges import RandomEdges
from wiring_lightning.callbacks.rigl import RigL
from wiring_lightning.callbacks.scheduled_masks import MaskSchedule
from wiring_lightning.callbacks.set import SET
from wiring_lightning.callbacks.sparse_layers import SparseLayers
from wiring_lightning.callbacks.targeted_dropout import TargetedDropout
from wiring_lightning.callbacks.warm_start import WarmStart
from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.callbacks.wiring_monitor import WiringMonitor

__all__ = [
    "ACDC",
    "DNW",
    "SET",
    "SNIP",
    "BudgetedSearch",
    "GradualPruning",
    "L1Anneal",
    "MaskConnect",
    "MaskSchedule",
    "NMSparsity",
    "NoUpdateRule",
    "Phase",
    "PhaseSchedule",
    "PredictionWriter",
    "PruneAndRetrain",
    "PruneAtStart",
    "RandomEdges",
    "RigL",
    "SparseLayers",
    "TargetedDropout",
    "WarmStart",
    "WiringCallback",
    "WiringError",
    "WiringMonitor",
]
