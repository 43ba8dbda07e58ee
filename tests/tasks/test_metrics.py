from collections import Counter

import pytest
import torch

from wiring_lightning.tasks._metrics import ExampleMean, LabelAccuracy, MostFrequent


def test_ranks_with_unequal_shares_give_the_mean_over_all_examples():
    values = torch.randn(7)
    whole, first, second = ExampleMean(), ExampleMean(), ExampleMean()
    whole.update(values)
    first.update(values[:4])
    second.update(values[4:])
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), values.mean())
    torch.testing.assert_close(whole.compute(), values.mean())


def test_a_mean_with_a_number_that_is_none_says_so():
    mean = ExampleMean()
    mean.update(torch.tensor([1.0, torch.nan]))
    assert mean.compute().isnan()


def test_pixels_count_alike_whatever_the_batch():
    prediction, labels = torch.randint(3, (9, 4, 5)), torch.randint(3, (9, 4, 5))
    labels[2], labels[:, 0, 0] = 255, 255
    first, second = LabelAccuracy(255), LabelAccuracy(255)
    for part in (slice(0, 2), slice(2, 3), slice(3, 9)):
        (first if part.start else second).update(prediction[part], labels[part])
    first.merge_state(second)
    pairs = zip(prediction.flatten().tolist(), labels.flatten().tolist(), strict=True)
    hits = [guess == truth for guess, truth in pairs if truth != 255]
    torch.testing.assert_close(first.compute(), torch.tensor(sum(hits) / len(hits)))
    assert LabelAccuracy(None).compute() == 0


def test_the_most_frequent_label_counts_over_all_ranks():
    labels = torch.randint(4, (9, 3)).clamp_max(2)
    first, second = MostFrequent(5), MostFrequent(5)
    first.update(labels[:2])
    second.update(labels[2:])
    first.merge_state(second)
    counts = Counter(labels.flatten().tolist())
    assert first.compute() == pytest.approx(max(counts.values()) / 27)
