"""Several fits in the folder of a run: each of its files gets the arguments of its own fit."""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wiring_lightning as wl
from tests.cli.commands import BASE, succeed, write
from tests.cli.test_load import SMALL, _saved
from wiring_lightning.checkpoints import read_weights
from wiring_lightning.cli.loading import find_trained
from wiring_lightning.cli.run_rows import Scored
from wiring_lightning.cli.runs import find_run
from wiring_lightning.cli.trained_config import note_config
from wiring_lightning.tasks import ClassificationTask
from wiring_lightning.wiring import Wiring


class Scaled(nn.Module):
    """A network from elsewhere that computes other things with the same weights."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.layer(images.flatten(1)) * self.scale
        return scaled


class Drawn(Scaled):
    """One that figures take."""

    def wiring(self) -> Wiring:
        raise NotImplementedError

    def compact(self) -> nn.Module:
        raise NotImplementedError


HERE = f"{__name__}.Scaled"


def _config(scale: float | None, **options: Any) -> dict[str, Any]:
    """A config of a network from elsewhere, or without a scale of one of this package."""
    network = (
        {"class_path": "ResNeXt", "init_args": SMALL}
        if scale is None
        else {"class_path": HERE, "init_args": {"scale": scale}}
    )
    task = {"class_path": "ClassificationTask", "init_args": {"backbone": network, **options}}
    batch = 16 if options else 32
    data = {"class_path": "Digits", "init_args": {"batch_size": batch}}
    return {"model": task, "data": data}


def _save(task: ClassificationTask, path: Path, note: str, step: int) -> Path:
    """A file of a fit with a config, that says that the file `first.ckpt` is the best one."""
    path.parent.mkdir(exist_ok=True)
    content = read_weights(_saved(task, path))
    state = {"monitor": "val/acc", "best_model_path": "/elsewhere/checkpoints/first.ckpt"}
    content |= {"global_step": step, "callbacks": {"ModelCheckpoint": state}}
    note_config(content, note)
    torch.save(content, path)
    return path


def _two_fits(folder: Path, own: bool, steps: tuple[int, int]) -> Mapping[str, Path]:
    """The files of a fit with scale 2 and smoothing 0.25, and of a later one with 3 and none."""
    first, then = (None, None) if own else (2.0, 3.0)
    write(_config(first, label_smoothing=0.25), folder / "config.yaml")
    write(_config(then), folder / "config_1.yaml")
    found = {}
    for name, note, step, smoothing in (
        ("first", "config.yaml", steps[0], 0.25),
        ("then", "config_1.yaml", steps[1], 0.0),
    ):
        network = wl.backbones.ResNeXt(**SMALL) if own else Scaled(1.0)
        task = ClassificationTask(network, label_smoothing=smoothing)
        found[name] = _save(task, folder / "checkpoints" / f"{name}.ckpt", note, step)
    return found


@pytest.mark.parametrize("own", [True, False], ids=["of this package", "from elsewhere"])
@pytest.mark.parametrize("steps", [(1, 2), (2, 1)], ids=["the later went further", "the first did"])
def test_each_file_has_the_arguments_of_its_fit(
    own: bool, steps: tuple[int, int], tmp_path: Path
) -> None:
    files = _two_fits(tmp_path, own, steps)
    last = "then" if steps == (1, 2) else "first"
    for fit, given, which in (
        ("first", files["first"], "last"),
        ("then", files["then"], "last"),
        ("first", tmp_path, "best"),
        (last, tmp_path, "last"),
    ):
        found = find_trained(given, which, trust=True)  # type: ignore[arg-type]
        task: Any = found.task
        assert found.checkpoint == files[fit]
        assert found.run is not None  # with the data of `wiring export --data`
        assert found.run.config["data"]["init_args"]["batch_size"] == (16 if fit == "first" else 32)
        assert task.label_smoothing == (0.25 if fit == "first" else 0.0)
        if not own:
            assert task.backbone.scale == (2.0 if fit == "first" else 3.0)
            layer = read_weights(files[fit])["state_dict"]["backbone.layer.weight"]
            assert torch.equal(task.backbone.layer.weight, layer)


def _replace(text: str, other: str, path: Path) -> None:
    path.write_text(path.read_text().replace(text, other))


@pytest.mark.parametrize("steps", [(1, 2), (2, 1)])
def test_figures_see_the_network_of_the_fit_that_went_furthest(
    steps: tuple[int, int], tmp_path: Path
) -> None:
    _two_fits(tmp_path, False, steps)
    for name in ("config.yaml", "config_1.yaml"):
        _replace("Scaled", "Drawn", tmp_path / name)
    network: Any = find_run(tmp_path, trust=True).network
    assert network.scale == (3.0 if steps == (1, 2) else 2.0)


@pytest.mark.parametrize("steps", [(1, 2), (2, 1)])
def test_tables_count_the_network_of_the_fit_that_went_furthest(
    steps: tuple[int, int], tmp_path: Path
) -> None:
    _two_fits(tmp_path, False, steps)
    other = "config.yaml" if steps == (1, 2) else "config_1.yaml"
    _replace("Scaled", "NotThere", tmp_path / other)
    sizes = Scored(find_run(tmp_path, trust=True), 0.5).sizes
    assert sizes is not None
    assert sizes.parameters == (650, 650)


def test_a_file_whose_config_is_gone_is_said(tmp_path: Path) -> None:
    files = _two_fits(tmp_path, False, (1, 2))
    (tmp_path / "config_1.yaml").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wl.load(files["first"], trust=True)
    with pytest.warns(UserWarning, match=r"is of the config config_1\.yaml, which is not in"):
        wl.load(files["then"], trust=True)
    with pytest.warns(UserWarning, match=r"is of the config config_1\.yaml, which is not in"):
        wl.load(tmp_path, trust=True)


def test_a_fit_that_goes_on_with_other_arguments_leaves_the_earlier_files_as_they_were(
    tmp_path: Path,
) -> None:
    config = deepcopy(BASE)
    config["model"]["init_args"] = {
        "backbone": {"class_path": HERE, "init_args": {"scale": 2.0}}, "label_smoothing": 0.25,
    }  # fmt: skip
    saver = {"class_path": "ModelCheckpoint", "init_args": {"save_top_k": -1}}
    logger = {
        "class_path": "CSVLogger",
        "init_args": {"save_dir": ".", "name": "a", "version": "b"},
    }
    config["trainer"] |= {"callbacks": [saver], "logger": logger, "limit_train_batches": 1,
                          "limit_test_batches": 1, "enable_progress_bar": False}  # fmt: skip
    succeed("fit", "--config", write(config, tmp_path / "run.yaml"))
    (first,) = Path("a/b/checkpoints").glob("*.ckpt")
    config["model"]["init_args"]["backbone"]["init_args"]["scale"] = 3.0
    config["model"]["init_args"]["label_smoothing"] = 0.0
    config["trainer"]["max_epochs"] = 2
    write(config, tmp_path / "run.yaml")
    succeed("fit", "--config", "run.yaml", "--ckpt_path", str(first))
    (then,) = set(Path("a/b/checkpoints").glob("*.ckpt")) - {first}
    for path, scale, smoothing in ((first, 2.0, 0.25), (then, 3.0, 0.0), (Path("a/b"), 3.0, 0.0)):
        task: Any = wl.load(path, trust=True)
        assert (task.backbone.scale, task.label_smoothing) == (scale, smoothing)
