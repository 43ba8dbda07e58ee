"""`wl.load` and `load_from_checkpoint`: one line from a file to the trained task."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities.data import AttributeDict
from torch import nn

import wiring_lightning as wl
from tests.cli.commands import Trained, network_of
from tests.methods import NETWORKS, digits
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


OWN = [m for m in NETWORKS if hasattr(wl.backbones, m.backbone.__name__)]


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


SMALL = {"depth": 11, "width": 2, "cardinality": 4, "fan_in": 1, "in_channels": 1,
         "image_size": 8}  # fmt: skip
FABRIC = {"columns": 2, "channels": 4, "scales": 3, "num_classes": 3, "task": "segmentation",
          "in_channels": 1, "image_size": 8}  # fmt: skip
WEIGHTS = [0.5, 2.0, *[1.0] * 8]
OPTIONS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "focal": (ClassificationTask, wl.backbones.ResNeXt, SMALL,
              {"loss": "focal", "class_weights": WEIGHTS, "focal_gamma": 1.5, "ignore_index": -1,
               "auxiliary_weight": 0.0}),
    "smoothed": (ClassificationTask, wl.backbones.ResNeXt, SMALL,
                 {"label_smoothing": 0.25, "decay_norms": False, "ignore_index": 3}),
    "pixels": (SegmentationTask, wl.backbones.ConvFabric, FABRIC,
               {"loss": "focal", "ignore_index": 0, "class_weights": [1.0, 2.0, 3.0]}),
    "no label is left out": (SegmentationTask, wl.backbones.ConvFabric, FABRIC,
                             {"ignore_index": None, "num_pictures": 2, "auxiliary_weight": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_the_folder_and_the_file_of_a_run_give_the_task_that_was_trained(
    case: str, tmp_path: Path
) -> None:
    kind, backbone, arguments, options = OPTIONS[case]
    task = kind(backbone(**arguments), **options, lr_warmup=3)
    path = _saved(task, tmp_path / "w.ckpt")
    network = {"class_path": backbone.__name__, "init_args": arguments}
    schedule = {"lr_interval": "step", "lr_warmup": 3}
    given = {**options, **schedule, "backbone": network, "compile": False}
    config = {"model": {"class_path": kind.__name__, "init_args": given}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shape = (4, 8, 8) if kind is SegmentationTask else (4,)
    labels = torch.randint(3, shape)
    labels[0] = labels[0] if task.ignore_index is None else task.ignore_index
    logits = torch.randn(4, task.num_classes, *shape[1:])
    expected = task.losses(logits, labels, "train")
    for loaded in (wl.load(tmp_path), wl.load(path), kind.load_from_checkpoint(path)):
        assert type(loaded) is kind
        assert loaded.built_with == task.built_with
        assert options.items() <= dict(loaded.built_with).items()
        assert loaded.auxiliary_weight == task.auxiliary_weight
        assert torch.equal(loaded.losses(logits, labels, "train"), expected)
        assert loaded.schedule.warmup == 0  # nothing of the training is built


def test_a_file_of_before_gives_the_options_that_it_has(tmp_path: Path) -> None:
    path = _saved(ClassificationTask(wl.backbones.ResNeXt(**SMALL), ignore_index=2), tmp_path / "w")
    content = read_weights(path)
    content["network"]["arguments"] = {"label_smoothing": 0.5, "decay_norms": True}
    torch.save(content, path)
    loaded = wl.load(path)
    assert (loaded.label_smoothing, loaded.ignore_index) == (0.5, None)


def test_a_network_from_elsewhere_keeps_the_options_of_its_task(tmp_path: Path) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    weights = np.linspace(0.5, 2, 10)  # as scikit-learn gives them
    task = ClassificationTask(network(), loss="focal", class_weights=weights, ignore_index=-1)
    path = _saved(task, tmp_path / "w.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(path, backbone=network())
    labels = torch.tensor([3, -1, 0])
    expected = task.losses(task(IMAGES), labels, "train")
    assert torch.equal(loaded.losses(loaded(IMAGES), labels, "train"), expected)
    content = read_weights(path)
    assert "hyper_parameters" not in content
    content["hyper_parameters"] = content.pop("module_arguments")  # as it was called before
    torch.save(content, path)
    with path.open("rb") as file:
        loaded = ClassificationTask.load_from_checkpoint(file, backbone=network(), ignore_index=3)
    assert (loaded.ignore_index, loaded.criterion.gamma) == (3, 2.0)


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


def test_several_best_checkpoints_are_named(trained: Trained, tmp_path: Path) -> None:
    content = read_weights(trained.checkpoint)
    for monitor, name in (("val/acc", "a"), ("val/loss", "b"), ("val/acc", "a")):
        state = {"monitor": monitor, "best_model_path": f"/elsewhere/{name}.ckpt"}
        content["callbacks"][f"ModelCheckpoint {len(content['callbacks'])}"] = state
    torch.save(content, tmp_path / "a.ckpt")
    (tmp_path / "config.yaml").write_bytes(Path(trained.config).read_bytes())
    assert _same(wl.load(tmp_path, "best"), network_of(trained.checkpoint))  # b is not there
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(
        RunError, match=r"2 best .* \(a.ckpt by val/acc, b.ckpt by val/loss\): give"
    ):
        wl.load(tmp_path, "best")


def test_best_checkpoints_of_equal_names_are_told_apart_by_their_folders(
    trained: Trained, tmp_path: Path
) -> None:
    content = read_weights(trained.checkpoint)
    content["callbacks"] = {
        "accuracy": {"monitor": "val/acc", "best_model_path": "/elsewhere/a/best.ckpt"},
        "every": {"monitor": None, "best_model_path": "/elsewhere/b/best.ckpt"},
    }
    for name in ("a", "b", "a/b"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.yaml").write_bytes(Path(trained.config).read_bytes())
    torch.save(content, tmp_path / "a/best.ckpt")
    other = {**content, "state_dict": {k: v * 0 for k, v in content["state_dict"].items()}}
    torch.save(other, tmp_path / "b/best.ckpt")
    torch.save(other, tmp_path / "a/b/best.ckpt")
    assert _same(wl.load(tmp_path, "best"), network_of(trained.checkpoint))
    content["callbacks"]["every"]["monitor"] = "val/loss"
    torch.save(content, tmp_path / "a/best.ckpt")
    torch.save(other | {"callbacks": content["callbacks"]}, tmp_path / "b/best.ckpt")
    (tmp_path / "a/b/best.ckpt").unlink()
    with pytest.raises(
        RunError, match=r"2 best .* \(a/best.ckpt by val/acc, b/best.ckpt by val/loss\): give"
    ):
        wl.load(tmp_path, "best")


@pytest.mark.parametrize("kind", ["a name", "a device", "a mapping", "a function"])
def test_weights_come_to_the_place_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    path = _saved(ClassificationTask(wl.backbones.ResNeXt(**SMALL)), tmp_path / "w.ckpt")
    asked: list[str] = []

    def place(storage: Any, location: str) -> Any:
        asked.append(location)
        return storage

    class Places(dict[str, str]):
        def get(self, location: str, default: Any = None) -> Any:
            asked.append(location)
            return super().get(location, default)

    where = {"a name": "meta", "a device": torch.device("meta"), "a mapping": Places(cuda="cpu"),
             "a function": place}[kind]  # fmt: skip
    loaded = ClassificationTask.load_from_checkpoint(path, map_location=where)
    at_reading = kind in ("a mapping", "a function")
    assert set(asked) == ({"cpu"} if at_reading else set())
    expected = "cpu" if at_reading else "meta"
    assert {one.device.type for one in loaded.parameters()} == {expected}


class Lenient(ClassificationTask):
    """A task that says itself that not all names must agree."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.strict_loading = False


@pytest.mark.parametrize("kind", [Lenient, ClassificationTask])
@pytest.mark.parametrize("given", [None, False, True])
def test_whether_names_must_agree_is_said_by_the_caller_or_the_task(
    kind: type[ClassificationTask], given: bool | None, tmp_path: Path
) -> None:
    network = wl.backbones.ResNeXt(**SMALL)
    path = _saved(kind(network), tmp_path / "w.ckpt")
    content = read_weights(path)
    del content["state_dict"]["backbone.classifier.bias"]
    torch.save(content, path)
    own = kind is not Lenient
    if own if given is None else given:
        with pytest.raises(CheckpointError, match=r"classifier\.bias is missing there"):
            kind.load_from_checkpoint(path, strict=given)
        return
    loaded = kind.load_from_checkpoint(path, strict=given)
    assert torch.equal(loaded.backbone.classifier.weight, network.classifier.weight)
    assert loaded.strict_loading is own


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
