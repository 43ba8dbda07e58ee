"""Whether numbers, values from files and errors are what they seem."""

from wiring_lightning._checks.foreign import has_foreign_code
from wiring_lightning._checks.numbers import (
    MOST,
    MOST_LAYERS,
    check_counts,
    check_finite,
    check_number,
)
from wiring_lightning._checks.plain import is_plain

__all__ = [
    "MOST",
    "MOST_LAYERS",
    "check_counts",
    "check_finite",
    "check_number",
    "has_foreign_code",
    "is_plain",
]
