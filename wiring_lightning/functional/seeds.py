"""Seeds derived from other seeds. Changing a formula changes the results of seeded runs."""

# Odd constants near 2^64 and 2^32 divided by the golden ratio: they scatter nearby numbers.
_MIX_64, _MIX_32 = 0x9E3779B97F4A7C15, 0x9E3779B1


def seed_of_step(seed: int, step: int) -> int:
    """The seed of one step of a run, in [0, 2^63). With seed 0 it is the number of the step.

    Example:
        >>> seed_of_step(0, 7), seed_of_step(1, 0) == seed_of_step(2, 0)
        (7, False)
    """
    return (int(seed) * _MIX_64 + step) % 2**63


def seed_of_epoch(seed: int, epoch: int) -> int:
    """The seed of one epoch's order and augmentation. With seed 0 it is the number of the epoch.

    It has 32 bits, because torch's CPU generator uses only the low 32 bits of its seed.

    Example:
        >>> seed_of_epoch(0, 7), seed_of_epoch(1, 0) == seed_of_epoch(2, 0)
        (7, False)
    """
    return (int(seed) * _MIX_32 + epoch) % 2**32


def derived_seed(*numbers: int) -> int:
    """A seed for a generator, in [0, 2^63), derived from several numbers.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1)
        True
        >>> len({derived_seed(seed, step) for seed in range(50) for step in range(50)})
        2500
    """
    mixed = len(numbers)
    for number in numbers:
        mixed = ((mixed ^ int(number)) * _MIX_64) % 2**64
        mixed ^= mixed >> 32
    return mixed >> 1
