"""Shares as text, and how many weights of a dense layer can be zero by chance."""

# A uniform draw of float32 has 24 random bits, and is zero if all are: once in 2**24 weights.
# `weights // 2**22` is four times what is expected then. Where little is expected, up to 8 zeros
# can be chance, as normal draws become zero in pairs, but at most one weight in 1,024: a density
# of 0.999 or less is never chance, nor is any zero among fewer weights.
_MOST, _ONE_IN, _RARE = 8, 1024, 2**22


def zeros_by_chance(weights: int) -> int:
    """How many weights of a layer can be exactly zero although nothing has removed any.

    Args:
        weights: how many the layer has.

    Example:
        >>> [zeros_by_chance(weights) for weights in (1_000, 4_096, 100_000, 100_000_000)]
        [0, 4, 8, 31]
    """
    return min(_MOST, weights // _ONE_IN) + weights // _RARE


def percent(share: float) -> str:
    """A share in percent, of which only nothing reads as 0 and only everything as 100.

    Example:
        >>> [percent(share) for share in (0, 1e-9, 0.00125, 0.125, 0.9996, 1 - 1e-9, 1)]
        ['0.0%', '0.001%', '0.125%', '12.5%', '99.960%', '99.999%', '100.0%']
    """
    if share in (0, 1) or 0.01 <= share < 0.9995:
        return f"{share:.1%}"
    return f"{min(max(share, 1e-5), 1 - 1e-5):.3%}"
