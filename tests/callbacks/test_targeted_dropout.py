"""Targeted dropout: what stays, how often the rest is dropped, and what is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from tests.callbacks.reader import (
    SPARSE,
    GraphReader,
    Masks,
    Reader,
    assert_same,
    batches,
    by_hand,
    check_resuming,
    edges,
    fit,
    largest,
)
from wiring_lightning.callbacks import TargetedDropout
from wiring_lightning.optim import DroppedEdgeSet, WeightDropout


def half(dense: Masks) -> Masks:
    return {name: largest(dense[name], dense[name].numel() // 2) for name in SPARSE}


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_it_is_autograd_through_the_drawn_masks(rho: float) -> None:
    """Also: decay and momentum see all weights, and in the end the k largest are left."""
    _, watch = fit(TargetedDropout(rho, density=0.5))
    drawn = list(watch.masks())

    def masks_at(step: int, dense: Masks) -> Masks:
        kept = half(dense)
        if step < len(drawn):
            assert all((drawn[step][name] | ~kept[name]).all() for name in SPARSE)
            return {name: drawn[step][name] for name in SPARSE}
        return kept

    assert_same(watch.after, *by_hand(masks_at))
    dropped = [int((~drawn[3][name]).sum()) for name in SPARSE]
    if rho in (0.0, 1.0):
        assert dropped == [rho * 36, rho * 576, rho * 80]


def test_candidates_are_dropped_independently_with_probability_rho() -> None:
    still = TargetedDropout(0.8, seed=5, density=0.25, layers=["head"])
    make = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
    _, watch = fit(still, Reader(make), data=batches(1) * 200)
    drawn = torch.stack([masks["head.weight"] for masks in watch.masks()]).flatten(1).double()
    always = drawn.all(0)
    assert int(always.sum()) == 40
    candidates = drawn[:, ~always]
    assert abs(float(candidates.mean()) - 0.2) < 4 * (0.16 / candidates.numel()) ** 0.5
    spread = candidates.sum(0).std() / (200 * 0.16) ** 0.5  # of weights over the draws
    assert 0.8 < float(spread) < 1.2
    spread = candidates.sum(1).std() / (120 * 0.16) ** 0.5  # of draws over the weights
    assert 0.8 < float(spread) < 1.2


def test_layers_of_one_shape_and_other_seeds_are_drawn_otherwise() -> None:
    def draw(seed: int, layers: list[str]) -> Masks:
        module = Reader()
        module.other = torch.nn.Linear(16, 10)
        module.other.load_state_dict(module.head.state_dict())
        _, watch = fit(TargetedDropout(0.5, seed=seed, density=0.1, layers=layers), module, steps=1)
        return next(iter(watch.masks()))

    both = draw(0, ["Linear"])
    assert not torch.equal(both["head.weight"], both["other.weight"])
    assert not torch.equal(both["head.weight"], draw(1, ["Linear"])["head.weight"])
    assert torch.equal(both["head.weight"], draw(0, ["head"])["head.weight"])


def test_survivors_keep_their_sign() -> None:
    module, watch = fit(TargetedDropout(0.5, density=0.5), steps=1)
    first = dict(Reader().double().named_parameters())
    for name in SPARSE:
        used = watch.before[0][name]
        torch.testing.assert_close(used[used != 0], first[name][used != 0].detach())
        assert (used < 0).any()
    assert (module.head.weight < 0).any()


def test_rows_keep_their_share() -> None:
    module, watch = fit(TargetedDropout(0.95, per_row=True, density=0.25, layers=["head"]))
    assert ((module.head.weight != 0).sum(1) == 4).all()
    latent = watch.before[0]["head.weight"].abs()
    first = Reader().double().head.weight.detach().abs()
    for row, dense in zip(latent, first, strict=True):
        assert (row[dense.argsort(descending=True)[:4]] > 0).all()


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"density": 0.1}, 2),  # 1.6 of 16
        ({"density": 0.02}, 1),
        ({"density": 0.35}, 6),
        ({"edges": 50}, 5),
    ],
)
def test_rows_keep_a_whole_number_of_weights(choice: dict[str, Any], kept: int) -> None:
    learner = TargetedDropout(per_row=True, layers=["head"], **choice)
    averages = EMAWeightAveraging(decay=0.5)
    module, _ = fit(learner, steps=2, callbacks=[averages], limit_val_batches=1)
    assert (module.head.weight != 0).sum(1).tolist() == [kept] * 10
    assert learner._groups[0].k == 10 * kept


def test_rows_of_a_graph_keep_the_same_share_of_what_they_can_have() -> None:
    learner = TargetedDropout(per_row=True, density=0.2)
    module, _ = fit(learner, GraphReader(), steps=2)
    # One to fifteen in every row but the first; each at least one.
    expected = [0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]
    assert (module.graph.weight != 0).sum(1).tolist() == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"edges": 45}, "the rows of first cannot all keep the same share of 45 edges; give 48"),
        ({"density": 0.5, "min_edges": 3}, "remove `groups`, distribution=global and min_edges"),
        ({"density": 0.5, "distribution": "global"}, "the same share of every row of a layer"),
        ({"edges": 45, "groups": {"a": ["Conv2d"]}}, "the same share of every row of a layer"),
    ],
)
def test_what_rows_cannot_have_is_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(TargetedDropout(per_row=True, **choice), steps=1)


@pytest.mark.parametrize("density", [0.25, 0.5])
def test_a_parameter_of_one_axis_is_one_row(density: float) -> None:
    learner = TargetedDropout(
        0.95, per_row=True, density=density, layers=["head"], vectors=["body.2.weight", "*.bias"]
    )
    module, _ = fit(learner)
    for vector in (module.body[2].weight, module.head.bias):
        latent = next(
            own
            for rule in learner._rules
            for own, weight in zip(rule.latent, rule._weights, strict=True)
            if weight is vector
        )
        kept = largest(latent, round(density * len(vector)))
        assert torch.equal(vector != 0, kept & (latent != 0))
    assert ((module.head.weight != 0).sum(1) == round(density * 16)).all()


def test_validation_and_everything_saved_use_the_largest_weights(tmp_path: Path) -> None:
    saver = ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, save_weights_only=True
    )
    module, watch = fit(
        TargetedDropout(0.5, density=0.25),
        callbacks=[saver],
        enable_checkpointing=True,
        limit_val_batches=1,
        val_check_interval=2,
        num_sanity_val_steps=1,
    )
    assert module.validated == [288] * 4
    drawn = [int(masks["body.1.weight"].sum()) for masks in watch.masks()]
    assert min(drawn) > 600  # training goes on with what it had drawn
    for step in (3, 5):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["state_dict"]
        bare = Reader()
        bare.load_state_dict(saved)
        assert [edges(layer) for layer in (bare.first, bare.body[1], bare.head)] == [18, 288, 40]
        used = watch.before[step]["body.1.weight"]
        same = saved["body.1.weight"] != 0
        torch.testing.assert_close(saved["body.1.weight"][same], used[same])
    assert edges(module.body[1]) == 288


def test_validation_does_not_change_the_training() -> None:
    _, without = fit(TargetedDropout(0.5, density=0.25))
    _, between = fit(TargetedDropout(0.5, density=0.25), limit_val_batches=1, val_check_interval=2)
    for name in SPARSE:
        assert torch.equal(without.after[name], between.after[name])


def test_a_test_after_the_fit_finds_the_sparse_network() -> None:
    callback = TargetedDropout(0.5, density=0.25)
    module, _ = fit(callback)
    before = module.head.weight.clone()
    module.state_dict()
    from tests.trainers import quiet_trainer

    trainer = quiet_trainer(callbacks=[callback], precision="64-true", limit_val_batches=1)
    trainer.validate(module, torch.utils.data.DataLoader(batches(1), batch_size=None))
    assert torch.equal(module.head.weight, before)
    assert module.validated == [288]


def test_the_freeze_ends_the_dropping() -> None:
    callback = TargetedDropout(0.5, density=0.25, freeze_epoch=1)
    module, watch = fit(callback, data=batches(2), max_epochs=3)
    drawn = [int(masks["body.1.weight"].sum()) for masks in watch.masks()]
    assert min(drawn[:2]) > 600
    assert drawn[2:] == [288] * 4
    assert edges(module.body[1]) == 288


def test_what_is_saved_after_the_freeze_are_the_frozen_edges() -> None:
    """Although a weight that is absent has grown larger than they have shrunk to."""
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.4, 0.1]))
    sgd = torch.optim.SGD([weight], lr=1.0)
    rule = WeightDropout(sgd, [DroppedEdgeSet([weight], 1, rho=0.0)])
    rule.freeze()
    rule.train()  # after a validation
    weight.grad = torch.tensor([0.25, 0.0, 0.0])
    sgd.step()
    (saved,) = rule.settled(0, [weight.detach()])
    assert saved.tolist() == weight.tolist() == [0.25, 0.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"freeze_epoch": 1}])
def test_a_clamp_between_steps_is_part_of_what_is_validated(options: dict[str, Any]) -> None:
    class Clamp(Callback):
        @torch.no_grad()
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            pl_module.body[1].weight.clamp_(-0.05, 0.05)

    learner = TargetedDropout(0.5, density=0.25, **options)
    kwargs: dict[str, Any] = {"limit_val_batches": 1, "max_epochs": 2, "data": batches(2)}
    module, _ = fit(learner, callbacks=[Clamp()], **kwargs)
    assert module.validated == [288] * 2
    assert edges(module.body[1]) == 288
    assert float(module.body[1].weight.detach().abs().max()) == pytest.approx(0.05)


def test_a_graph_drops_usable_edges_only() -> None:
    module, watch = fit(TargetedDropout(0.5), GraphReader())
    for masks in watch.masks():
        mask = masks["body.4.weight"]
        assert not (mask & ~module.graph.usable).any()
        assert 20 < int(mask.sum()) < 120
    assert edges(module.graph) == 20


def test_it_resumes(tmp_path: Path) -> None:
    check_resuming(lambda: TargetedDropout(0.5, density=0.3), tmp_path, at=3)
    check_resuming(lambda: TargetedDropout(0.5), tmp_path / "graph", at=3, module=GraphReader)


@pytest.mark.parametrize("rho", [-0.1, 1.1])
def test_a_probability_out_of_range_is_refused(rho: float) -> None:
    arguments: dict[str, Any] = {"rho": rho, "density": 0.5}
    with pytest.raises(MisconfigurationException, match=f"between 0 and 1, got {rho}"):
        TargetedDropout(**arguments)
