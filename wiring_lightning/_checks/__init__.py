"""Whether numbers are ones that make sense, said in one sentence."""

from wiring_lightning._checks.numbers import (
    MOST,
    MOST_LAYERS,
    check_counts,
    check_finite,
    check_number,
)

__all__ = ["MOST", "MOST_LAYERS", "check_counts", "check_finite", "check_number"]
