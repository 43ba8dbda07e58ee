"""Seeds that follow from others."""

# An odd constant near 2^64 / golden ratio, which scatters neighbouring numbers.
_MIX = 0x9E3779B97F4A7C15
_BITS = 2**64 - 1


def seed_of_step(seed: int, step: int) -> int:
    """The seed of one step of a run, from 0 up and below 2^63; seed 0 gives the step's own number.

    Example:
        >>> seed_of_step(0, 7), seed_of_step(1, 0) == seed_of_step(2, 0)
        (7, False)
    """
    return (seed * _MIX + step) & (_BITS >> 1)


def derived_seed(*numbers: int) -> int:
    """A seed for a generator, from 0 up and below 2^63, that follows from several numbers.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1)
        True
        >>> len({derived_seed(seed, step) for seed in range(50) for step in range(50)})
        2500
    """
    mixed = len(numbers)
    for number in numbers:
        mixed = ((mixed ^ number) * _MIX) & _BITS
        mixed ^= mixed >> 32
    return mixed >> 1
