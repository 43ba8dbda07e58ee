"""What the monitor tells of a plain network with sparse layers."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tests.callbacks.monitored_fit import Module, Noise, events, fit, numbers
from tests.callbacks.test_log_to import Shows
from wiring_lightning.backbones import ResNet
from wiring_lightning.callbacks import DNW, RigL, WiringMonitor
from wiring_lightning.callbacks.layer_table import layer_table
from wiring_lightning.costs import layer_costs, sparse_multiply_adds


def plain() -> nn.Sequential:
    """A small network of layers; 54, 432 and 16 weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


class Told(Module):
    """Says what an input looks like, and takes it."""

    def __init__(self, backbone: nn.Module, lr: float = 0.1) -> None:
        super().__init__(backbone, lr)
        self.example_input_array = torch.zeros(1, 1, 8, 8)

    def forward(self, images: torch.Tensor) -> Any:
        return self.backbone(images)


class SameNoise(Noise):
    """The same images in every run."""

    def loader(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return super().loader()

    train_dataloader = val_dataloader = loader


@pytest.fixture(autouse=True)
def same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.callbacks.monitored_fit.Module", Told)
    monkeypatch.setattr("tests.callbacks.monitored_fit.Noise", SameNoise)


def rigl(**settings: Any) -> RigL:
    return RigL(density=0.25, delta_t=1, alpha=0.5, until=1.0, total_steps=12, **settings)


def test_numbers_agree_with_the_weights(tmp_path: Path) -> None:
    module = fit(tmp_path, plain(), DNW(density=0.25), WiringMonitor(pictures=False))
    last = {tag: values[-1] for tag, values in numbers(tmp_path).items()}
    weights = {i: module.backbone[i].weight.detach() != 0 for i in (0, 2, 5)}
    kept = {i: int(mask.sum()) for i, mask in weights.items()}
    assert last["wiring/active_edges"] == sum(kept.values()) == 14 + 108 + 4
    assert last["wiring/density"] == pytest.approx(126 / 502)
    assert last["wiring/parameters_live"] == 126 + 6 + 8 + 2
    cost = sparse_multiply_adds(module, torch.zeros(1, 1, 8, 8))
    assert last["wiring/multiply_adds_live"] == cost.sparse < cost.dense / 3
    for i, mask in weights.items():
        ends = {tuple(edge[:2]) for edge in mask.nonzero().tolist()}
        outputs, inputs = ({end[side] for end in ends} for side in (0, 1))
        assert last[f"wiring/{i}/density"] == pytest.approx(kept[i] / mask.numel())
        assert last[f"wiring/{i}/dead_rows"] == mask.shape[0] - len(outputs)
        assert last[f"wiring/{i}/dead_columns"] == mask.shape[1] - len(inputs)


def test_what_is_beside_one_pass_of_the_network_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Averaged(Told):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__(backbone)
            self.example_input_array = torch.zeros(4, 1, 8, 8)
            self.average = deepcopy(backbone).requires_grad_(False)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.backbone.parameters(), lr=0.1)

        def on_train_batch_end(self, *_: Any) -> None:
            for own in self.average.parameters():
                own.data.mul_(0.9)

    seen = []
    for name, kind in (("plain", Told), ("averaged", Averaged)):
        monkeypatch.setattr("tests.callbacks.monitored_fit.Module", kind)
        fit(tmp_path / name, plain(), DNW(density=0.25), WiringMonitor(pictures=False))
        seen.append(numbers(tmp_path / name))
    for tag in ("wiring/parameters_live", "wiring/multiply_adds_live"):
        assert seen[0][tag] == seen[1][tag]


def test_a_resumed_run_shows_the_same_numbers(tmp_path: Path) -> None:
    def run(name: str, *callbacks: Any, **arguments: Any) -> None:
        monitor = WiringMonitor(pictures=False)
        fit(tmp_path / name, plain(), rigl(), monitor, *callbacks, **arguments)

    keep = ModelCheckpoint(tmp_path, filename="stopped", save_on_train_epoch_end=True)
    run("through", epochs=4)
    run("first", keep, epochs=2, enable_checkpointing=True)
    run("second", epochs=4, ckpt_path=str(tmp_path / "stopped.ckpt"))
    saved = torch.load(tmp_path / "stopped.ckpt", weights_only=True)["callbacks"]["WiringMonitor"]
    assert {name: bits.numel() for name, bits in saved["layers"].items()} == {
        "backbone.0.weight": 7, "backbone.2.weight": 54, "backbone.5.weight": 2
    }  # fmt: skip
    through, second = numbers(tmp_path / "through"), numbers(tmp_path / "second")
    assert second == {tag: values[-len(second[tag]) :] for tag, values in through.items()}
    assert len(second["wiring/edges_changed"]) == 2
    assert min(second["wiring/edges_changed"]) > 0


def test_the_picture_is_drawn_every_time(tmp_path: Path) -> None:
    fit(tmp_path, plain(), rigl(), WiringMonitor())
    read = events(tmp_path)
    assert read.Tags()["images"] == ["wiring/densities"]
    assert [image.step for image in read.Images("wiring/densities")] == [2, 5]


def test_loggers_with_tables_get_the_layers(tmp_path: Path) -> None:
    logger = Shows()
    module = fit(tmp_path, plain(), rigl(), WiringMonitor(), logger=logger)
    columns, rows = logger.tables["wiring/layers"]
    expected = layer_table(layer_costs(module, torch.zeros(1, 1, 8, 8)))
    assert (tuple(columns), rows) == expected
    assert {name for name, _, _ in logger.pictures} == {"wiring/densities"}
    assert "wiring/modules" not in logger.tables


def test_the_order_of_callbacks_does_not_matter(tmp_path: Path) -> None:
    fit(tmp_path / "a", plain(), DNW(density=0.25), WiringMonitor(pictures=False))
    fit(tmp_path / "b", plain(), WiringMonitor(pictures=False), DNW(density=0.25))
    assert numbers(tmp_path / "a").keys() == numbers(tmp_path / "b").keys()


def test_a_network_with_a_wiring_has_a_picture_of_its_densities_too(tmp_path: Path) -> None:
    network = ResNet(
        depth=8, wiring="previous", stem="cifar", num_classes=2, in_channels=1, image_size=8
    )
    fit(tmp_path, network, DNW(density=0.2), WiringMonitor())
    assert set(events(tmp_path).Tags()["images"]) >= {"wiring/graph", "wiring/densities"}
