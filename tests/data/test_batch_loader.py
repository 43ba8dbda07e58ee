import itertools
import warnings

import pytest
import torch

from wiring_lightning.data import BatchLoader, CropFlip

SIZES = (1, 2, 5, 7, 8, 9, 16, 23)
WORLD_SIZES = (1, 2, 3, 4)
BATCH_SIZES = (1, 2, 3, 4, 8, 30)


def scale(images):
    return images.float() / 255


def make(size, batch_size, shuffle=True, **options):
    """Build a loader of random images whose labels are their positions."""
    images = torch.randint(256, (size, 2, 4, 3), generator=torch.Generator().manual_seed(1))
    options = {"normalizer": scale, "crop_flip": CropFlip(1), **options}
    return BatchLoader(
        images.to(torch.uint8), torch.arange(size), batch_size, shuffle=shuffle, **options
    )


def labels_of(loader):
    return [labels.tolist() for _, labels in loader]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def ranks_of(size, batch_size, world_size, **options):
    return [
        make(size, batch_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for (left_images, left_labels), (right_images, right_labels) in zip(left, right, strict=True):
        assert torch.equal(left_images, right_images)
        assert torch.equal(left_labels, right_labels)


def test_equals_one_sample_at_a_time(crop_flip_loop):
    loader = make(23, 5, rank=1, world_size=2, seed=3)
    loader.set_epoch(4)
    generator = torch.Generator().manual_seed((3 * 0x9E3779B1 + 4) % 2**32)
    order = torch.randperm(23, generator=generator).tolist()
    offsets = torch.randint(3, (23, 2), generator=generator)
    flips = torch.rand(23, generator=generator) < 0.5
    mine = [order[position] for position in range(22) if position % 2 == 1]
    expected = [mine[0:5], mine[5:10], mine[10:11]]
    batches = list(loader)
    assert [labels.tolist() for _, labels in batches] == expected
    for images, labels in batches:
        for image, sample in zip(images, labels.tolist(), strict=True):
            one = slice(sample, sample + 1)
            floats = scale(loader.images[one])
            assert torch.equal(image, crop_flip_loop(floats, offsets[one], flips[one], 1)[0])


def test_evaluation_keeps_the_order_and_the_pixels():
    loader = make(7, 3, shuffle=False, crop_flip=None)
    assert labels_of(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.equal(torch.cat([images for images, _ in loader]), scale(loader.images))


def test_each_epoch_and_seed_has_its_own_order():
    orders = set()
    for seed, epoch in itertools.product((-1, 0, 1, 2, 2**32 + 5), range(4)):
        loader = make(16, 16, seed=seed)
        loader.set_epoch(epoch)
        (order,) = labels_of(loader)
        assert sorted(order) == list(range(16))
        orders.add(tuple(order))
    assert len(orders) == 20


def test_augmentation_changes_from_epoch_to_epoch():
    loader = make(16, 16)
    (first,), (_, labels) = list(loader), next(iter(loader))
    loader.set_epoch(1)
    images, new_labels = next(iter(loader))
    assert not torch.equal(first[0][labels.argsort()], images[new_labels.argsort()])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_are_one_process_with_a_larger_batch(world_size, drop_last):
    def together(images_and_labels):
        """Interleave the ranks: sample j of rank r is sample j * R + r of the large batch."""
        images = torch.stack([images for images, _ in images_and_labels], dim=1)
        labels = torch.stack([labels for _, labels in images_and_labels], dim=1)
        return images.flatten(0, 1), labels.flatten()

    one = make(24, 4 * world_size, drop_last=drop_last)
    ranks = ranks_of(24, 4, world_size, drop_last=drop_last)
    for epoch in range(3):
        for loader in (one, *ranks):
            loader.set_epoch(epoch)
        assert_same_batches(one, map(together, zip(*ranks, strict=True)))


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_training_shards_are_disjoint_and_equally_long(world_size, batch_size):
    for size in filter(lambda size: size >= world_size, SIZES):
        loaders = ranks_of(size, batch_size, world_size)
        batches = [labels_of(loader) for loader in loaders]
        assert {len(flat(shard)) for shard in batches} == {size // world_size}
        assert len(set(flat(map(flat, batches)))) == size // world_size * world_size
        assert {len(loader) for loader in loaders} == {len(shard) for shard in batches}


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_evaluation_covers_each_sample_once_in_equally_many_batches(world_size, batch_size):
    for size in filter(lambda size: size >= world_size, SIZES):
        loaders = ranks_of(size, batch_size, world_size, shuffle=False)
        batches = [labels_of(loader) for loader in loaders]
        assert sorted(flat(map(flat, batches))) == list(range(size))
        assert {len(loader) for loader in loaders} == {len(shard) for shard in batches}
        assert len({len(loader) for loader in loaders}) == 1
        sizes = [len(batch) for batch in flat(batches)]
        assert min(sizes) >= 1
        assert max(sizes) <= max(batch_size, 2 if world_size > 1 else 1)


def test_the_samples_that_sit_out_change():
    missing = set()
    for epoch in range(20):
        loaders = ranks_of(7, 2, world_size=2)
        for loader in loaders:
            loader.set_epoch(epoch)
        missing |= set(range(7)) - set(flat(map(flat, map(labels_of, loaders))))
    assert len(missing) > 4


def test_drop_last_leaves_full_batches_in_training_only():
    assert [len(batch) for batch in labels_of(make(10, 4, drop_last=True))] == [4, 4]
    evaluation = make(10, 4, shuffle=False, drop_last=True)
    assert [len(batch) for batch in labels_of(evaluation)] == [4, 4, 2]


@pytest.mark.parametrize("consumed", range(6))
def test_resumes_with_the_next_batch(consumed):
    whole, broken, resumed = (make(22, 4, seed=7) for _ in range(3))
    for loader in (whole, broken):
        loader.set_epoch(2)
    for _ in itertools.islice(broken, consumed):
        pass
    state = broken.state_dict()
    assert (state["epoch"], state["batches"]) == (2, consumed)

    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(2)
    assert len(resumed) == 6
    assert_same_batches(resumed, itertools.islice(whole, consumed, None))
    assert_same_batches(resumed, whole)
    for loader in (whole, resumed):
        loader.set_epoch(3)
    assert_same_batches(resumed, whole)


def test_another_epoch_forgets_the_restored_position():
    loader = make(22, 4)
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batches": 3})
    loader.set_epoch(1)
    assert loader.state_dict()["batches"] == 0
    assert len(labels_of(loader)) == 6


def test_nothing_is_lost_to_an_iterator_that_is_not_used():
    loader = make(22, 4)
    loader.load_state_dict({**loader.state_dict(), "epoch": 3, "batches": 2})
    iter(loader)
    early = iter(loader)
    loader.set_epoch(3)
    assert len(list(early)) == 4


def test_a_left_iteration_starts_again_from_the_first_batch():
    loader = make(22, 4)
    next(iter(loader))
    assert len(labels_of(loader)) == 6


def test_resumes_on_another_number_of_processes():
    one, two = make(24, 6), make(24, 3, rank=1, world_size=2)
    for _ in itertools.islice(one, 2):
        pass
    whole = labels_of(make(24, 3, rank=1, world_size=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two.load_state_dict(one.state_dict())
    assert labels_of(two) == whole[2:]


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 5}])
def test_warns_if_the_position_lost_its_meaning(change):
    loader = make(22, **{"batch_size": 4, **change})
    state = {"epoch": 0, "batches": 2, "seed": 0, "global_batch_size": 4}
    with pytest.warns(UserWarning, match="will repeat some samples and miss others"):
        loader.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        (
            {"size": 3, "drop_last": True},
            r"3 sample\(s\) are too few for a batch of 4 .*: lower batch_size",
        ),
        (
            {"size": 1, "world_size": 2},
            r"too few for a batch of 4 on each of 2 process.*: use fewer proc",
        ),
        ({"size": 1, "world_size": 2, "shuffle": False}, "too few"),
    ],
)
def test_refuses_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        make(**{"size": 22, "batch_size": 4, **options})


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 1, 2, 2), torch.arange(4), "images must be uint8"),
        (torch.zeros(4, 2, dtype=torch.uint8), torch.arange(4), "images must be uint8"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(3), "labels must be int64"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4), "labels must be int64"),
    ],
)
def test_refuses_bad_tensors(images, labels, message):
    with pytest.raises(ValueError, match=message):
        BatchLoader(images, labels, 2, normalizer=scale)


def test_masks_must_have_the_images_size_and_are_not_cut_out():
    images = torch.zeros(4, 1, 2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"or masks, uint8 of shape \[4, 2, 3\], got"):
        BatchLoader(images, torch.zeros(4, 3, 2, dtype=torch.uint8), 2, normalizer=scale)
    masks = torch.zeros(4, 2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="crop_flip must be a Mirror"):
        BatchLoader(images, masks, 2, normalizer=scale, crop_flip=CropFlip(1))
