"""Tasks of one's own, loaded from their checkpoints."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wiring_lightning as wl
from tests.cli.commands import write
from tests.cli.test_load import SMALL, _same, _saved
from wiring_lightning.checkpoints import CheckpointError, read_weights
from wiring_lightning.cli.trust import UntrustedError
from wiring_lightning.tasks import ClassificationTask


class Adds(ClassificationTask):
    """A task with an argument of its own, and those of the base class."""

    def __init__(self, backbone: nn.Module, scale: float = 1.0, **options: Any) -> None:
        super().__init__(backbone, **options)
        self.scale = scale


class Fixes(ClassificationTask):
    """Chooses an argument of the base class."""

    def __init__(self, backbone: nn.Module, **options: Any) -> None:
        super().__init__(backbone, loss="focal", **options)


class Renames(ClassificationTask):
    """Calls an argument of the base class something else."""

    def __init__(self, backbone: nn.Module, smooth: float) -> None:
        super().__init__(backbone, label_smoothing=smooth)


class PassesOn(Adds):
    """Names no argument that it passes on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)


class Again(PassesOn):
    """Has the constructor of its base class."""


class BuildsItself(ClassificationTask):
    """Has no backbone among its arguments."""

    def __init__(self, fan_in: int, smooth: float = 0.1) -> None:
        network = wl.backbones.ResNeXt(**{**SMALL, "fan_in": fan_in})
        super().__init__(network, label_smoothing=smooth)


OWN_TASKS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "adds": (Adds, (), {"scale": 3.0, "loss": "focal"}),
    "fixes": (Fixes, (), {"ignore_index": 2}),
    "renames": (Renames, (), {"smooth": 0.25}),
    "passes on": (Again, (3.0,), {"focal_gamma": 1.5, "loss": "focal"}),
    "builds itself": (BuildsItself, (2,), {"smooth": 0.25}),
}


@pytest.mark.parametrize("case", OWN_TASKS)
def test_a_task_of_ones_own_is_built_as_it_was(case: str, tmp_path: Path) -> None:
    kind, arguments, options = OWN_TASKS[case]
    networks = [] if kind is BuildsItself else [wl.backbones.ResNeXt(**SMALL)]
    task = kind(*networks, *arguments, **options)
    path = _saved(task, tmp_path / "w.ckpt")
    given = [{}, *({"backbone": wl.backbones.ResNeXt(**SMALL)} for _ in networks)]
    for loaded in (*(kind.load_from_checkpoint(path, **one) for one in given), deepcopy(task)):
        assert loaded.built_with == task.built_with
        assert options.items() <= dict(loaded.built_with).items()
        for name in ("label_smoothing", "ignore_index", "scale"):
            assert getattr(loaded, name, None) == getattr(task, name, None)
        assert loaded.criterion.gamma == task.criterion.gamma
        assert loaded.backbone.built_with == task.backbone.built_with
        assert _same(loaded.eval(), task.backbone)


class Flips(ClassificationTask):
    """Computes something else than its base class."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images.flip(3))
        return logits


@pytest.mark.parametrize("name", ["ClassificationTask", "SegmentationTask", "Flips"])
def test_a_task_of_ones_own_is_not_taken_for_one_of_this_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = type(name, (Flips,), {"__module__": __name__})
    monkeypatch.setitem(globals(), name, kind)  # as if it was written here
    images = torch.randn(2, 1, 8, 8)
    task = kind(wl.backbones.ResNeXt(**SMALL), label_smoothing=0.25).eval()
    path = _saved(task, tmp_path / "w.ckpt")
    loaded = kind.load_from_checkpoint(path).eval()
    assert torch.equal(loaded(images), task(images))
    assert loaded.label_smoothing == 0.25
    monkeypatch.setattr(kind, "__module__", "__main__")  # a script that was a module
    assert type(kind.load_from_checkpoint(path)) is kind
    monkeypatch.undo()
    monkeypatch.setitem(globals(), name, kind)
    full = f"{__name__}.{name}"
    for load in (wl.load, wl.tasks.ClassificationTask.load_from_checkpoint):
        with pytest.raises(CheckpointError, match=rf"is of a {full}, "):
            load(path)
    model = {"class_path": f"{__name__}.{name}",
             "init_args": {"backbone": {"class_path": "ResNeXt", "init_args": SMALL}}}  # fmt: skip
    write({"model": model}, tmp_path / "config.yaml")
    for given in (path, tmp_path):
        with pytest.raises(UntrustedError):
            wl.load(given)
        task_of_run = wl.load(given, trust=True)
        assert type(task_of_run) is kind
        assert torch.equal(task_of_run(images), task(images))


def test_an_older_file_of_such_a_task_is_loaded_by_its_class(tmp_path: Path) -> None:
    """It names the class without its module."""
    path = _saved(Flips(wl.backbones.ResNeXt(**SMALL)), tmp_path / "w.ckpt")
    content = read_weights(path)
    content["network"]["task"] = "ClassificationTask"
    del content["network"]["module"]
    torch.save(content, path)
    assert type(Flips.load_from_checkpoint(path)) is Flips
