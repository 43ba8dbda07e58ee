"""Whether numbers and values from files are ones that make sense, said in one sentence."""

from wiring_lightning._checks.numbers import (
    MOST,
    MOST_LAYERS,
    check_counts,
    check_finite,
    check_number,
)
from wiring_lightning._checks.plain import is_plain

__all__ = ["MOST", "MOST_LAYERS", "check_counts", "check_finite", "check_number", "is_plain"]
