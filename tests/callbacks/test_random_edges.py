"""A fixed random choice of weights."""

from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.callbacks.reader import (
    SPARSE,
    GraphReader,
    Reader,
    assert_same,
    by_hand,
    check_resuming,
    edges,
    fit,
)
from wiring_lightning.callbacks import RandomEdges


@pytest.mark.parametrize("clip", [None, 0.1])
def test_only_the_first_choice_trains(clip: float | None) -> None:
    _, watch = fit(RandomEdges(density=0.3), gradient_clip_val=clip)
    first = next(iter(watch.masks()))
    masks = {name: first[name] for name in SPARSE}
    assert [int(mask.sum()) for mask in masks.values()] == [22, 346, 48]
    assert_same(watch.after, *by_hand(lambda *_: masks, clip=clip))


def test_every_weight_is_as_likely_as_any_other() -> None:
    class Small(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 10)
            nn.init.constant_(self.head.weight, 1.0)
            self.head.weight.data[0] = 100.0  # magnitude does not matter

    counts = torch.zeros(10, 16)
    for seed in range(200):
        callback = RandomEdges(seed, density=0.25, layers=["Linear"])
        (group,) = callback.find_groups(None, Small())  # type: ignore[arg-type]
        (mask,) = callback._draw(group)
        assert int(mask.sum()) == 40
        counts += mask
    deviation = (counts - 50) / (200 * 0.25 * 0.75) ** 0.5
    assert deviation.abs().max() < 4.5
    assert 0.7 < deviation.std() < 1.3
    assert deviation[0].abs().mean() < 2


def test_layers_of_one_shape_have_edges_of_their_own_and_a_seed_repeats_them() -> None:
    class Twins(Reader):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))

    def choice(seed: int) -> list[torch.Tensor]:
        module, _ = fit(RandomEdges(seed, density=0.5, layers=["Linear"]), Twins(), steps=1)
        return [layer.weight != 0 for layer in module.head]

    (one, two), again, other = choice(0), choice(0), choice(1)
    assert not torch.equal(one, two)
    assert torch.equal(one, again[0])
    assert not torch.equal(one, other[0])


def test_a_graph_becomes_a_frozen_random_one() -> None:
    module, _ = fit(RandomEdges(), GraphReader())
    assert edges(module.graph) == 20
    assert not ((module.graph.weight != 0) & ~module.graph.usable).any()
    assert bool(module.graph.frozen)
    assert not module.graph.learnable
    assert not torch.equal(module.graph.weight != 0, GraphReader().graph.weight != 0)


def test_it_resumes_with_the_edges_of_the_saved_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resuming(lambda: RandomEdges(density=0.3), tmp_path, at=3)
    whole, _ = fit(RandomEdges(0, density=0.3))
    monkeypatch.delattr(RandomEdges, "_draw")  # nothing is drawn again
    module, _ = fit(RandomEdges(0, density=0.3), steps=8, resume=tmp_path / "step=3.ckpt")
    assert torch.equal(module.head.weight != 0, whole.head.weight != 0)


def test_a_freeze_epoch_is_refused() -> None:
    with pytest.raises((TypeError, MisconfigurationException)):
        RandomEdges(density=0.5, freeze_epoch=3)


def test_the_default_device_does_not_matter_for_the_choice() -> None:
    learner = RandomEdges(density=0.3, seed=5)
    groups = learner.find_groups(None, Reader())  # type: ignore[arg-type]
    expected = [learner._draw(group) for group in groups]
    with torch.device("meta"):
        found = [learner._draw(group) for group in groups]
    for ours, own in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, own))
