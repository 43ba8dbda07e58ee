"""How names of this package are found: when they are first used, and under their old names."""

from wiring_lightning._names.lazy import lazy_names
from wiring_lightning._names.renamed import MOVED, follow_moves, renamed_argument, renamed_attribute

__all__ = ["MOVED", "follow_moves", "lazy_names", "renamed_argument", "renamed_attribute"]
