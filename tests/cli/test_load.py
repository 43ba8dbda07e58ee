"""`wl.load` and `load_from_checkpoint`: one line from a file to the trained task."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

import wiring_lightning as wl
from tests.cli.commands import Trained, network_of
from tests.methods import METHODS, digits
from tests.trainers import quiet_trainer
from wiring_lightning.checkpoints import CheckpointError, read_weights
from wiring_lightning.cli.runs import RunError
from wiring_lightning.cli.trust import UntrustedError
from wiring_lightning.tasks import ClassificationTask, SegmentationTask, WiringComparison

IMAGES = torch.randn(3, 1, 8, 8)


def _same(task: nn.Module, network: nn.Module, images: torch.Tensor = IMAGES) -> bool:
    with torch.no_grad():
        return torch.equal(task(images), network.eval()(images))


def _saved(task: Any, path: Path) -> Path:
    trainer = quiet_trainer()
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def test_a_run_and_its_checkpoint_give_the_trained_task(trained: Trained, tmp_path: Path) -> None:
    network = network_of(trained.checkpoint)
    alone = tmp_path / "alone.ckpt"  # no config beside it
    alone.write_bytes(Path(trained.checkpoint).read_bytes())
    for given in (trained.folder, str(trained.folder), trained.checkpoint, alone):
        task = wl.load(given)
        assert type(task) is ClassificationTask
        assert not task.training
        assert _same(task, network)
    trainer = quiet_trainer()
    (result,) = trainer.test(wl.load(trained.folder), digits(), verbose=False)
    assert f"{result['test/acc']:.4f}" == trained.reported("test acc")


def test_load_from_checkpoint_needs_nothing_else(trained: Trained) -> None:
    network = network_of(trained.checkpoint)
    assert _same(ClassificationTask.load_from_checkpoint(trained.checkpoint).eval(), network)
    with pytest.raises(CheckpointError, match="is of a ClassificationTask, not of a Segment"):
        SegmentationTask.load_from_checkpoint(trained.checkpoint)


def test_a_checkpoint_of_before_is_loaded_by_the_config_beside_it(
    trained: Trained, tmp_path: Path
) -> None:
    content = read_weights(trained.checkpoint)
    del content["network"]
    (tmp_path / "checkpoints").mkdir()
    old = tmp_path / "checkpoints" / "old.ckpt"
    torch.save(content, old)
    for load in (wl.load, ClassificationTask.load_from_checkpoint):
        with pytest.raises(CheckpointError, match="does not say which network it is of"):
            load(old)
    (tmp_path / "config.yaml").write_bytes(Path(trained.config).read_bytes())
    assert _same(wl.load(old), network_of(trained.checkpoint))


OWN = [m for m in METHODS if hasattr(wl.backbones, m.backbone.__name__)]


@pytest.mark.parametrize("method", OWN, ids=[method.name for method in OWN])
def test_every_backbone_is_built_as_it_was(method: Any, tmp_path: Path) -> None:
    torch.manual_seed(1)
    task = method.task(label_smoothing=0.25)
    loaded = wl.load(_saved(task, tmp_path / "w.ckpt"))
    assert type(loaded.backbone) is method.backbone
    assert loaded.backbone.built_with == task.backbone.built_with
    assert loaded.label_smoothing == 0.25
    own, found = task.state_dict(), loaded.state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)


def test_other_tasks_keep_their_arguments(tmp_path: Path) -> None:
    fabric = wl.backbones.ConvFabric(2, 4, scales=3, num_classes=3, task="segmentation",
                                     in_channels=1, image_size=8)  # fmt: skip
    task = SegmentationTask(fabric, ignore_index=None, num_pictures=2)
    loaded = wl.load(_saved(task, tmp_path / "s.ckpt"))
    assert isinstance(loaded, SegmentationTask)
    assert (loaded.ignore_index, loaded.num_pictures) == (None, 2)
    assert _same(loaded, fabric)
    heads = wl.backbones.GatedHeads(in_channels=3, heads=2)
    loaded = wl.load(_saved(WiringComparison(heads), tmp_path / "h.ckpt"))
    assert _same(loaded, heads, torch.randn(2, 3, 8, 8))


def test_a_network_from_elsewhere_is_asked_for(tmp_path: Path) -> None:
    task = ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    path = _saved(task, tmp_path / "w.ckpt")
    with pytest.raises(CheckpointError, match="backbone="):
        wl.load(path)
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    loaded = ClassificationTask.load_from_checkpoint(path, backbone=bare)
    assert _same(loaded.eval(), task.backbone)


BAD = {
    "a class from elsewhere": {"class": "os.system", "arguments": {"command": "touch it_ran"}},
    "a name that is no backbone": {"class": "__name__", "arguments": {}},
    "an argument that there is not": {"class": "ResNeXt", "arguments": {"size": 3}},
    "a class as an argument": {"class": "ResNeXt", "arguments": {"depth": {"class_path": "a.B"}}},
    "a depth that is none": {"class": "ResNeXt", "arguments": {"depth": -3}},
    "another network": {"class": "ResNeXt", "arguments": {"depth": 20}},
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_file_says_about_its_network_is_not_trusted(
    case: str, trained: Trained, tmp_path: Path
) -> None:
    content = read_weights(trained.checkpoint)
    content["network"]["backbone"] = BAD[case]
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError, match=r"no backbone|cannot be built|another network"):
        wl.load(tmp_path / "bad.ckpt")
    assert not Path("it_ran").exists()


def test_a_run_of_another_package_needs_trust(trained: Trained, tmp_path: Path) -> None:
    config = Path(trained.config).read_text()
    (tmp_path / "config.yaml").write_text(
        config.replace("wiring_lightning.backbones.ResNeXt", "tests.outside.TwoLayers")
    )
    (tmp_path / "w.ckpt").write_bytes(Path(trained.checkpoint).read_bytes())
    with pytest.raises(UntrustedError, match=r"TwoLayers.*trust=True"):
        wl.load(tmp_path)


def test_the_best_checkpoint_is_the_one_that_was_measured_best(
    trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="has no best checkpoint"):
        wl.load(trained.folder, "best")  # nothing was monitored
    content = read_weights(trained.checkpoint)
    state = {"monitor": "val/acc", "best_model_path": "/elsewhere/checkpoints/first.ckpt"}
    content["callbacks"]["ModelCheckpoint{'monitor': 'val/acc'}"] = state
    content["global_step"] = 5
    torch.save(content, tmp_path / "first.ckpt")
    content["global_step"] = 7
    content["state_dict"]["backbone.stem.0.weight"].zero_()
    torch.save(content, tmp_path / "last.ckpt")
    (tmp_path / "config.yaml").write_bytes(Path(trained.config).read_bytes())
    assert _same(wl.load(tmp_path, "best"), network_of(trained.checkpoint))
    assert not _same(wl.load(tmp_path), network_of(trained.checkpoint))


class Settings:
    """Of another project; importing or building it would be seen."""

    def __init__(self, value: int) -> None:
        Path("it_ran").touch()

    def __reduce__(self) -> Any:
        return Settings, (3,)


HYPER_PARAMETERS = {
    "a partial": {"optimizer": partial(torch.optim.AdamW, lr=0.1)},
    "what Lightning saves": AttributeDict(optimizer=partial(torch.optim.SGD), root=Path("x")),
    "a function": {"activation": torch.nn.functional.relu},
    "a module": {"loss": nn.CrossEntropyLoss()},
    "an object": {"settings": object.__new__(Settings)},
    "code": {"made": partial(print, "it ran"), "path": Path("x"), "print": print},
}


@pytest.mark.parametrize("kind", HYPER_PARAMETERS)
def test_hyper_parameters_of_any_kind_are_passed_over(
    kind: str, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_weights(trained.checkpoint) | {"hyper_parameters": HYPER_PARAMETERS[kind]}
    torch.save(content, tmp_path / "other.ckpt")
    expected = read_weights(trained.checkpoint)["state_dict"]
    found = read_weights(tmp_path / "other.ckpt")["state_dict"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert _same(wl.load(tmp_path / "other.ckpt"), network_of(trained.checkpoint))
    assert not Path("it_ran").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
def test_an_exported_network_is_told_what_reads_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"of another program")
    with pytest.raises(CheckpointError, match=r"exported network .* wl\.load_exported\.$"):
        wl.load(path)
    path.unlink()
    with pytest.raises(CheckpointError, match="There is no checkpoint at"):
        wl.load(path)


@pytest.mark.parametrize("content", [b"GIF89a", b"model: {}", bytes(200), b"a" * 2000])
def test_a_file_that_is_no_checkpoint_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is none \(it is no file that torch\.save wrote\)"):
        wl.load(tmp_path / "x.ckpt")


def test_another_word_than_last_and_best_is_refused(trained: Trained) -> None:
    for path in (trained.folder, trained.checkpoint):
        with pytest.raises(ValueError, match='which must be "last" or "best", got "bst"'):
            wl.load(path, "bst")  # type: ignore[arg-type]
