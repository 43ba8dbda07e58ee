"""Split pictures into training, validation and test, the same share of every class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256

from wiring_lightning.data._find_files import nfc

Picture = tuple[str, str]
"""Name of a picture, its path below the root with ``/``, and the name of its class."""

Splits = dict[str, list[Picture]]
"""Pictures for ``train``, ``val`` and ``test``; the first is always there."""


def split_by_class(pictures: Iterable[Picture], shares: Mapping[str, float], seed: int) -> Splits:
    """Set aside a share of every class for each other split; the rest is for training.

    Which pictures these are depends on the seed and their names only, not on the order. A picture
    that is added later leaves nearly all others in their splits.

    Args:
        pictures: All pictures.
        shares: The share of each other split, such as ``{"val": 0.1, "test": 0.1}``. A share of a
            class is rounded, and at least one picture; 0 leaves the split empty.
        seed: Another seed is another split.

    Raises:
        RuntimeError: If a class has too few pictures.

    Example:
        >>> ants = [(f"ant/{number}.png", "ant") for number in range(10)]
        >>> bees = [(f"bee/{number}.png", "bee") for number in range(20)]
        >>> splits = split_by_class(ants + bees, {"val": 0.1, "test": 0.2}, seed=0)
        >>> [(name, len(found)) for name, found in splits.items()]
        [('train', 21), ('val', 3), ('test', 6)]
    """
    pictures = sorted(pictures, key=lambda picture: (picture[1], picture[0]))
    counts = Counter(label for _, label in pictures)
    sizes = {label: _sizes(label, count, shares) for label, count in counts.items()}
    place: dict[Picture, str] = {}
    taken: Counter[str] = Counter()
    for picture in sorted(pictures, key=lambda picture: (_draw(picture[0], seed), picture)):
        label = picture[1]
        place[picture] = sizes[label][taken[label]] if taken[label] < len(sizes[label]) else "train"
        taken[label] += 1
    return {
        split: [picture for picture in pictures if place[picture] == split]
        for split in ("train", *shares)
    }


def names_in(splits: Splits) -> dict[str, set[str]]:
    """Return the names of the pictures in each split."""
    return {split: {name for name, _ in pictures} for split, pictures in splits.items()}


def _sizes(label: str, count: int, shares: Mapping[str, float]) -> list[str]:
    """The split of each picture of a class in the order in which they are drawn.

    Pictures after the end of the list are for training.
    """
    wanted = {split: max(1, round(count * share)) for split, share in shares.items() if share}
    if sum(wanted.values()) >= count:
        parts = " and ".join(f"{size} for {split}" for split, size in wanted.items())
        raise RuntimeError(
            f"The class '{label}' has {count} picture(s), too few for {parts} and at least one for "
            "training: add pictures, or lower val_share or test_share (--data.val_share, "
            "--data.test_share)."
        )
    return [split for split, size in wanted.items() for _ in range(size)]


def _draw(name: str, seed: int) -> bytes:
    """A number that is random, but always the same for a name, on any machine."""
    return sha256(f"{seed}/{nfc(name)}".encode("utf-8", "surrogateescape")).digest()
