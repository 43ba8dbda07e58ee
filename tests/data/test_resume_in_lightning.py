from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.data.recorder import Recorder, assert_continues
from wiring_lightning.data import BatchLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
]

STEPS = 5  # 18 training images in batches of 4, the last one of 2 images


def recorder(**options):
    return Recorder(4 * 4, **options)


@pytest.fixture
def fit(tiny, tmp_path):
    def run(model, ckpt_path=None, checkpoint=None, **options):
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=checkpoint is not None,
            callbacks=[] if checkpoint is None else [checkpoint],
            default_root_dir=tmp_path,
            **{"max_epochs": 2, **options},
        )
        trainer.fit(model, datamodule=tiny(batch_size=4, val_size=4), ckpt_path=ckpt_path)
        return model

    return run


def every_step(folder):
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)


# Reading `estimated_stepping_batches` makes Lightning drop the loader's state, see
# `ResumableDataModule`.
@pytest.mark.parametrize("estimate_steps", [False, True])
@pytest.mark.parametrize("limits", [{}, {"max_epochs": -1, "max_steps": 2 * STEPS}])
def test_continues_after_any_step(fit, tmp_path, estimate_steps, limits):
    full = fit(recorder(), checkpoint=every_step(tmp_path), **limits)
    assert [(epoch, index) for epoch, index, *_ in full.seen] == [
        (epoch, index) for epoch in range(2) for index in range(STEPS)
    ]
    for step in (1, 4, 5, 6, 9):
        model = recorder(estimate_steps=estimate_steps)
        assert_continues(full, fit(model, tmp_path / f"step={step}.ckpt", **limits), step)


@pytest.mark.parametrize("limits", [{}, {"max_epochs": -1, "max_steps": 3 * STEPS - 1}])
@pytest.mark.parametrize("on_train_end", [False, True])
def test_continues_after_an_epoch(fit, tmp_path, limits, on_train_end):
    limits = limits or {"max_epochs": 3}
    checkpoint = ModelCheckpoint(
        tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=on_train_end
    )
    full = fit(recorder(), checkpoint=checkpoint, **limits)
    for step in (STEPS, 2 * STEPS):
        assert_continues(full, fit(recorder(), tmp_path / f"step={step}.ckpt", **limits), step)


def test_continues_if_only_a_part_of_each_epoch_is_used(fit, tmp_path):
    full = fit(recorder(), checkpoint=every_step(tmp_path), limit_train_batches=3)
    for step in (2, 3, 4):
        path = tmp_path / f"step={step}.ckpt"
        assert_continues(full, fit(recorder(), path, limit_train_batches=3), step)


@pytest.mark.parametrize("fail_at", [(0, 2), (1, 0), (1, STEPS - 1)])
def test_the_batch_of_a_failed_step_comes_again(fit, tmp_path, fail_at):
    checkpoint = ModelCheckpoint(tmp_path, "broken", every_n_epochs=9, save_on_exception=True)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(recorder(fail_at=fail_at), checkpoint=checkpoint)
    (path,) = tmp_path.glob("*.ckpt")
    step = fail_at[0] * STEPS + fail_at[1]
    assert_continues(fit(recorder()), fit(recorder(), path), step)


def test_the_position_ignores_the_count_of_the_last_epoch():
    current = SimpleNamespace(processed=3)
    epoch_loop = SimpleNamespace(batch_progress=SimpleNamespace(current=current))
    trainer = SimpleNamespace(current_epoch=0, fit_loop=SimpleNamespace(epoch_loop=epoch_loop))
    images = torch.zeros(6, 1, 1, 1, dtype=torch.uint8)
    loader = BatchLoader(images, torch.arange(6), 2, normalizer=torch.Tensor.float, trainer=trainer)
    assert len(list(loader)) == loader.state_dict()["batches"] == 3
    trainer.current_epoch = 1
    loader.set_epoch(1)
    assert loader.state_dict()["batches"] == 0


def test_testing_a_checkpoint_does_not_move_a_later_training(tiny, fit, tmp_path):
    fit(recorder(), checkpoint=every_step(tmp_path))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    data = tiny(batch_size=4, val_size=4)
    trainer.validate(recorder(), data, tmp_path / "step=2.ckpt", verbose=False)
    data.trainer = None
    assert len(list(data.train_dataloader())) == STEPS


def test_overfitting_repeats_its_batches(fit):
    model = fit(recorder(), overfit_batches=2)
    assert [labels for _, _, labels, _ in model.seen] == 2 * [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_trains_without_a_validation_split(tiny):
    model = recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=tiny(batch_size=4, val_size=0))
    assert len(model.seen) == 6
