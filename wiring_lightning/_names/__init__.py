"""Lazy imports of this package's names, and old names that still work."""

from wiring_lightning._names.lazy import lazy_names
from wiring_lightning._names.renamed import MOVED, follow_moves, renamed_argument, renamed_attribute

__all__ = ["MOVED", "follow_moves", "lazy_names", "renamed_argument", "renamed_attribute"]
