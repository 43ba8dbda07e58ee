"""How names of this package are found: when they are first used."""

from wiring_lightning._names.lazy import lazy_names

__all__ = ["lazy_names"]
