"""Checks of numbers, values from files and errors; and names and counts as a part of a message."""

from wiring_lightning._checks.foreign import has_foreign_code
from wiring_lightning._checks.numbers import (
    MOST,
    MOST_LAYERS,
    check_counts,
    check_finite,
    check_number,
    check_seed,
)
from wiring_lightning._checks.plain import is_plain, plain_number
from wiring_lightning._checks.words import counted, listed

__all__ = [
    "MOST",
    "MOST_LAYERS",
    "check_counts",
    "check_finite",
    "check_number",
    "check_seed",
    "counted",
    "has_foreign_code",
    "is_plain",
    "listed",
    "plain_number",
]
