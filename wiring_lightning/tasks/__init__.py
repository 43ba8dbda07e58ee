"""LightningModules that train any backbone."""

from wiring_lightning.tasks.classification import ClassificationTask
from wiring_lightning.tasks.comparison import WiringComparison
from wiring_lightning.tasks.segmentation import SegmentationTask

__all__ = ["ClassificationTask", "SegmentationTask", "WiringComparison"]
