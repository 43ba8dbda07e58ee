"""Splits by class: counted by hand, and compared over many seeds with what chance would do."""

import random
from collections import Counter
from itertools import chain

import pytest

from wiring_lightning.data._stratified import Splits, split_by_class

PICTURES = [
    (f"{label}/{i}.png", label) for label, n in (("ant", 10), ("bee", 33)) for i in range(n)
]
SHARES = {"val": 0.1, "test": 0.2}


def counts(splits: Splits) -> dict[str, dict[str, int]]:
    return {split: dict(Counter(label for _, label in found)) for split, found in splits.items()}


def test_every_class_has_its_share_in_every_split() -> None:
    splits = split_by_class(PICTURES, SHARES, seed=0)
    assert counts(splits) == {
        "train": {"ant": 7, "bee": 23},
        "val": {"ant": 1, "bee": 3},
        "test": {"ant": 2, "bee": 7},  # 6.6 is rounded
    }
    assert sorted(chain.from_iterable(splits.values())) == sorted(PICTURES)


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (7, (5, 1, 1))])
def test_a_small_class_has_a_picture_in_every_split(count: int, sizes: tuple[int, ...]) -> None:
    splits = split_by_class([(str(i), "ant") for i in range(count)], SHARES, seed=5)
    assert tuple(len(found) for found in splits.values()) == sizes


def test_a_share_of_0_leaves_a_split_empty() -> None:
    splits = split_by_class(PICTURES, {"val": 0.0, "test": 0.2}, seed=0)
    assert splits["val"] == []
    assert len(splits["train"]) == 34


def test_the_split_depends_on_seed_and_names_only() -> None:
    shuffled = random.Random(1).sample(PICTURES, len(PICTURES))
    assert split_by_class(shuffled, SHARES, 3) == split_by_class(PICTURES, SHARES, 3)
    assert split_by_class(PICTURES, SHARES, 4) != split_by_class(PICTURES, SHARES, 3)


def test_this_split_stays_as_it_is_in_later_versions() -> None:
    ants = [picture for picture in PICTURES if picture[1] == "ant"]
    splits = split_by_class(ants, SHARES, seed=0)
    # `printf 0/ant/2.png | sha256sum` is the smallest of the ten; those of 5 and 1 are next.
    assert splits["val"] == [("ant/2.png", "ant")]
    assert splits["test"] == [("ant/1.png", "ant"), ("ant/5.png", "ant")]


def test_names_in_another_unicode_form_are_split_alike() -> None:
    composed = [(f"\u00e9/{i}", "a") for i in range(20)]
    decomposed = [(f"e\u0301/{i}", "a") for i in range(20)]
    one, other = (split_by_class(names, SHARES, 0)["test"] for names in (composed, decomposed))
    assert [name[-2:] for name, _ in one] == [name[-2:] for name, _ in other]


def test_a_new_picture_moves_at_most_one_other_of_each_split() -> None:
    before = split_by_class(PICTURES, SHARES, 0)
    for number in range(50):
        after = split_by_class([*PICTURES, (f"bee/new{number}.png", "bee")], SHARES, 0)
        for split in SHARES:
            assert len(set(before[split]) - set(after[split])) <= 1


def test_every_picture_is_drawn_equally_often() -> None:
    seeds = 400
    drawn = Counter(
        name for seed in range(seeds) for name, _ in split_by_class(PICTURES, SHARES, seed)["test"]
    )
    for name, label in PICTURES:
        share = 2 / 10 if label == "ant" else 7 / 33
        deviation = (share * (1 - share) * seeds) ** 0.5
        assert abs(drawn[name] - share * seeds) < 4.5 * deviation


@pytest.mark.parametrize(
    ("count", "shares", "said"),
    [
        (2, SHARES, "The class 'ant' has 2 picture(s), too few for 1 for val and 1 for test and"),
        (1, {"val": 0.1}, "The class 'ant' has 1 picture(s), too few for 1 for val and"),
    ],
)
def test_a_class_with_too_few_pictures_is_named(
    count: int, shares: dict[str, float], said: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        split_by_class([(str(i), "ant") for i in range(count)], shares, 0)
    assert said in str(caught.value)
    assert "--data.val_share" in str(caught.value)
