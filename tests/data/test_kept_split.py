"""A split of pictures that was drawn is kept by its checkpoint, also if the pictures change."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from tests.data.batches import fake_trainer
from tests.data.image_folders import COUNTS, make, names, write_classes
from tests.data.recorder import Recorder, assert_continues
from tests.data.test_image_masks import (
    CLASSES,
    HEIGHT,
    WIDTH,
    make as make_pairs,
    names_in,
    write_pair,
)
from tests.trainers import quiet_trainer
from wiring_lightning.data import ImageFolder, ImageMaskFolder

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """21 images of 12x18 pixels in three classes."""
    return write_classes(tmp_path / "own", COUNTS, (12, 18))


def recorder() -> Recorder:
    return Recorder(3 * 8 * 8, estimate_steps=True)


def fit(data: ImageFolder, model: Any, ckpt_path: Path | None = None, **options: Any) -> Any:
    quiet_trainer(max_epochs=2, limit_val_batches=1, **options).fit(
        model, datamodule=data, ckpt_path=ckpt_path
    )
    return model


class AsksEarly(Callback):
    """Asks how long the fit is before the checkpoint is read, so that the loader is made then."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert trainer.estimated_stepping_batches > 0


@pytest.mark.parametrize("others", [[], [AsksEarly()]], ids=["", "early"])
def test_a_resumed_run_keeps_its_split_when_pictures_were_added(
    root: Path, tmp_path: Path, others: list[Callback]
) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    logger = CSVLogger(str(tmp_path), name="run", version=0)
    options = {"callbacks": [saver], "enable_checkpointing": True, "logger": logger}
    whole = make(root)
    full = fit(whole, recorder(), **options)
    written = (tmp_path / "run/version_0/split.csv").read_text()
    assert written.splitlines()[0] == "path,label,split"
    assert written.count("\n") == 22
    write_classes(root, dict.fromkeys(COUNTS, 5), (12, 18), start=50)
    for step in (1, 6):
        later, resumed = make(root, split_seed=9), recorder()
        with pytest.warns(UserWarning, match="is kept, .* 15 picture"):
            fit(later, resumed, tmp_path / f"step={step}.ckpt", callbacks=others)
        assert_continues(full, resumed, step)
        assert names(later) == names(whole)
        assert sorted(later._train_loader.files.paths) == sorted(later._ready()[0][0])
    # The file is a table: another run can have the same split.
    same = make(root, table=str(tmp_path / "run/version_0/split.csv"))
    assert names(same) == names(whole)
    assert "split" not in same.state_dict()


@pytest.mark.parametrize("others", [[], [AsksEarly()]], ids=["", "early"])
def test_a_resumed_run_trains_on_the_images_with_masks_of_its_split(
    tmp_path: Path, others: list[Callback]
) -> None:
    for number in range(12):
        write_pair(tmp_path, f"{number:02}")
    data, pixels = make_pairs(tmp_path), 3 * HEIGHT * WIDTH
    full = Recorder(pixels)
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    options: dict[str, Any] = {"max_epochs": 2, "enable_checkpointing": True, "callbacks": [saver]}
    quiet_trainer(**options).fit(full, data)
    for number in range(12, 20):
        write_pair(tmp_path, f"{number:02}")
    for step in (1, 3):
        resumed = Recorder(pixels)
        trainer = quiet_trainer(max_epochs=2, callbacks=others)
        with pytest.warns(UserWarning, match=r"is kept, .* 8 picture"):
            trainer.fit(resumed, make_pairs(tmp_path), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_continues(full, resumed, step)


def test_a_checkpoint_keeps_its_split_when_images_were_added(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path, f"{number:02}")
    data = make_pairs(tmp_path)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    write_pair(tmp_path, "10")
    later, early = make_pairs(tmp_path), ImageMaskFolder(CLASSES, str(tmp_path), batch_size=4)
    assert names_in(later.test_dataloader()) != names_in(data.test_dataloader())
    with pytest.warns(UserWarning, match=r"is kept, .* 1 picture"):
        later.load_state_dict(state)
    early.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"is kept, .* 1 picture"):
        early.setup("fit")
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert names_in(getattr(later, loader)()) == names_in(getattr(data, loader)())
    assert early.state_dict()["split"].equal(state["split"])
    (tmp_path / "images/03.png").unlink()
    (tmp_path / "masks/03.png").unlink()
    with pytest.raises(FileNotFoundError, match="The split of the checkpoint names '03', but"):
        make_pairs(tmp_path).load_state_dict(state)


def test_a_loader_that_was_made_before_the_split_of_the_checkpoint_is_refused(root: Path) -> None:
    state = make(root).state_dict()
    same, other = make(root), make(root, split_seed=9)
    for data in (same, other):
        data.train_dataloader()
    same.load_state_dict(state)
    with (
        pytest.warns(UserWarning, match="is kept"),
        pytest.raises(RuntimeError, match=r"before train_dataloader\(\)"),
    ):
        other.load_state_dict(state)


def test_a_checkpoint_is_tested_on_its_own_test_pictures(root: Path, tmp_path: Path) -> None:
    data = make(root)
    state = data.state_dict()
    torch.save(state, tmp_path / "state.pt")
    later = make(root, split_seed=3)
    with pytest.warns(UserWarning, match=r"is kept, .* 0 picture"):
        later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert names(later) == names(data)
    assert later.predict_names == names(data)[2]


def write_labels(root: Path, labels: dict[str, str]) -> str:
    path = root / "labels.csv"
    path.write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    return str(path)


def labels_by_part(data: ImageFolder) -> list[dict[str, str]]:
    known: Any = data.class_names
    return [
        dict(zip(paths, (known[number] for number in split[1].tolist()), strict=True))
        for paths, split in zip(names(data), data._ready(), strict=True)
    ]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_labels_that_were_corrected_count_in_a_split_that_is_kept(root: Path, part: int) -> None:
    labels = {name: name[:3] for paths in names(make(root)) for name in paths}
    first = make(root, table=write_labels(root, labels))
    state, parts = first.state_dict(), names(first)
    name, other = next((name, "ant") for name in parts[part] if labels[name] != "ant")
    table = write_labels(root, {**labels, name: other})
    later = make(root, table=table)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        later.load_state_dict(state)
    assert names(later) == parts
    assert labels_by_part(later)[part] == {
        **{picture: labels[picture] for picture in parts[part]},
        name: other,
    }
    assert not [one for one in said if " 1 picture" in str(one)]
    # A resumed run writes down, and saves, what it trains on now.
    again = make(root, table=table)
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", ".* 0 picture")
        again.load_state_dict(later.state_dict())
    assert labels_by_part(again) == labels_by_part(later)


def test_pictures_that_the_table_names_no_more_keep_their_labels(root: Path) -> None:
    labels = {name: name[:3] for paths in names(make(root)) for name in paths}
    first = make(root, table=write_labels(root, labels))
    gone = names(first)[2][0]
    table = write_labels(root, {name: label for name, label in labels.items() if name != gone})
    later = make(root, table=table)
    with pytest.warns(UserWarning, match=r"is kept, .* 0 picture"):
        later.load_state_dict(first.state_dict())
    assert labels_by_part(later) == labels_by_part(first)


@pytest.mark.parametrize("ask", ["test_dataloader", "val_dataloader", "predict_dataloader"])
def test_a_checkpoint_without_a_split_is_told(root: Path, ask: str) -> None:
    state, trainer = make(root).state_dict(), fake_trainer(0, 1, 0)
    trainer.ckpt_path, trainer.training = "weights.ckpt", False
    data = make(root)
    data.trainer = trainer
    with pytest.warns(UserWarning, match=r"weights.ckpt holds no split of the pictures"):
        getattr(data, ask)()
    kept = make(root)
    kept.load_state_dict(state)
    told_by_table = make(root, table=str(write_split(root, kept)))
    with warnings.catch_warnings(action="error"):
        getattr(data, ask)()  # is told once
        for other in (kept, told_by_table):
            other.trainer = trainer
            getattr(other, ask)()


def write_split(root: Path, data: ImageFolder) -> Path:
    path = root / "split.csv"
    path.write_text(str(data._drawn_split()))
    return path


def test_a_picture_of_the_split_that_is_gone_is_named(root: Path) -> None:
    data = make(root)
    (root / names(data)[1][0]).unlink()
    with pytest.raises(FileNotFoundError, match="The split of the checkpoint names 'ant/ant"):
        make(root).load_state_dict(data.state_dict())
