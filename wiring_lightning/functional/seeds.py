"""Seeds that follow from others; the results of runs depend on these very numbers."""

# Odd constants near a power of two / golden ratio, which scatter neighbouring numbers.
_MIX_64, _MIX_32 = 0x9E3779B97F4A7C15, 0x9E3779B1


def seed_of_step(seed: int, step: int) -> int:
    """The seed of one step of a run, from 0 up and below 2^63; seed 0 gives the step's own number.

    Example:
        >>> seed_of_step(0, 7), seed_of_step(1, 0) == seed_of_step(2, 0)
        (7, False)
    """
    return (seed * _MIX_64 + step) % 2**63


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed of one epoch's order and augmentation, in 32 bits; seed 0 gives the epoch's number.

    torch's generator looks at the low 32 bits of its seed only.

    Example:
        >>> seed_of_epoch(0, 7), seed_of_epoch(1, 0) == seed_of_epoch(2, 0)
        (7, False)
    """
    return (seed * _MIX_32 + epoch) % 2**32


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
        mixed = ((mixed ^ number) * _MIX_64) % 2**64
        mixed ^= mixed >> 32
    return mixed >> 1
