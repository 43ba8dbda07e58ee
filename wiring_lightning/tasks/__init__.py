"""LightningModules that train any backbone."""

from wiring_lightning.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
