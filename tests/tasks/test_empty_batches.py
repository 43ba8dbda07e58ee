"""Batches without examples."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.trainers import quiet_trainer
from wiring_lightning.tasks import ClassificationTask, SegmentationTask
from wiring_lightning.tasks._supervised import SupervisedTask

CLASSES = 3
IGNORED = 2


def classifier(**options: Any) -> SupervisedTask:
    return ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES)), **options)


def segmenter() -> SupervisedTask:
    return SegmentationTask(nn.Sequential(nn.Conv2d(3, CLASSES, 1)))


TASKS: dict[str, tuple[Callable[[], SupervisedTask], tuple[int, ...]]] = {
    "classes": (classifier, ()),
    "some without a label": (lambda: classifier(ignore_index=IGNORED), ()),
    "masks": (segmenter, (2, 2)),
}


def batches(shape: tuple[int, ...], *sizes: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    made: Any = [
        (
            torch.rand(size, 3, 2, 2, generator=generator),
            torch.randint(CLASSES, (size, *shape), generator=generator),
        )
        for size in sizes
    ]
    return DataLoader(made, batch_size=None)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("sizes", [(0,), (4, 0)])
def test_training_on_one_is_refused(name: str, sizes: tuple[int, ...]) -> None:
    make, shape = TASKS[name]
    with pytest.raises(ValueError, match=r"^A training batch has no examples, so its loss has no "):
        quiet_trainer().fit(make(), batches(shape, *sizes))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("what", ["validate", "test"])
def test_an_evaluation_passes_over_one(name: str, what: str) -> None:
    make, shape = TASKS[name]
    task = make()

    def measured(*sizes: int) -> list[dict[str, float | Tensor]]:
        trainer = quiet_trainer(limit_val_batches=1.0)
        answer: Any = getattr(trainer, what)(task, batches(shape, *sizes), verbose=False)
        return list(answer)

    assert measured(5, 0, 3) == measured(5, 3)
