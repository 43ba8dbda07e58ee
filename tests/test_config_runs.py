"""The shipped configs train: one for each class that they name, on a small batch."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from tests.data.conftest import fake_cifar10, fake_cifar100  # noqa: F401  # fixtures
from tests.data.test_part_labels import write_release
from tests.plain_commands import settings_of
from tests.test_configs import (
    CONFIGS,
    PAPER_ROWS,
    Built,
    callbacks,
    commands,  # noqa: F401  # a fixture
    in_checkout,  # noqa: F401  # a fixture of every test
)
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.cli import WiringCLI
from wiring_lightning.nn import find_gates


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mini`: 100 classes of two images. `full/train`, `full/val`: 1,000 classes of one image."""
    root = tmp_path_factory.mktemp("photographs")
    for parent, classes, images, size in (
        ("mini", 100, 2, 84),
        ("full/train", 1000, 1, 48),
        ("full/val", 1000, 1, 48),
    ):
        files = [_noise(size, seed) for seed in range(2)]
        for number in range(classes):
            folder = root / parent / f"n{number:04}"
            folder.mkdir(parents=True)
            for image in range(images):
                (folder / f"{image}.png").write_bytes(files[number % 2])
    return root


def _noise(size: int, seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (size, size, 3), generator=generator).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    return file.getvalue()


CHEAPEST_FIRST = (
    "Digits",
    "DigitSums",
    "CIFAR10",
    "CIFAR100",
    "MiniImageNet",
    "PartLabels",
    "ImageNet",
)


def kinds(command: tuple[str, ...]) -> set[str]:
    """The classes that a command runs; a network with its kind of wiring."""
    settings = settings_of(command[2])
    parts = [settings["model"], settings["data"], *settings["trainer"].get("callbacks", [])]
    arguments = settings["model"].get("init_args", {})
    found = {part["class_path"] for part in parts}
    if "backbone" in arguments:
        backbone = arguments["backbone"]
        asked = [option.partition("wiring=")[2] for option in command if "wiring=" in option]
        wirings = [*asked, backbone.get("init_args", {}).get("wiring")]
        found.add(f"{backbone['class_path']}, wiring {wirings[0]}")
    return found


def runs() -> list[tuple[str, ...]]:
    """So many commands that all classes and wirings of all configs run, on the smallest images."""
    every = {(row.config, row.connectivity): row.command for row in reversed(PAPER_ROWS)}
    rows = {config for config, _ in every}
    possible = [
        *every.values(),
        *(("fit", "--config", path) for path in CONFIGS if path not in rows),
    ]
    seen: set[str] = set()
    chosen = []
    for command in sorted(possible, key=lambda command: (images(command), command)):
        if kinds(command) - seen:
            seen |= kinds(command)
            chosen.append(command)
    return chosen


def images(command: tuple[str, ...]) -> int:
    return CHEAPEST_FIRST.index(settings_of(command[2])["data"]["class_path"])


RUNS = runs()


def tiny_data(config: str, request: pytest.FixtureRequest) -> list[str]:
    """Options for a few small images in the files of a config's data set."""
    settings = settings_of(config)
    data, backbone = settings["data"], settings["model"]["init_args"]["backbone"]["class_path"]
    name = data["class_path"]
    if name in ("CIFAR10", "CIFAR100"):
        root = str(request.getfixturevalue(f"fake_{name.lower()}"))
        size = ["--data.val_size", str(min(data["init_args"]["val_size"], 8))]
        if backbone == "MobileNetV1DNW":  # of full width, its graphs take seconds
            size += ["--model.backbone.width", "0.1"]
        return ["--data.root", root, *size]
    if name in ("Digits", "DigitSums"):
        return []
    if name == "PartLabels":
        release = write_release(request.getfixturevalue("tmp_path"))
        return ["--data.root", str(release), "--model.backbone.channels", "2"]
    photographs: Path = request.getfixturevalue("photographs")
    if name == "MiniImageNet":
        sizes = ["--data.train_per_class", "1", "--data.test_per_class", "1"]
        return ["--data.root", str(photographs / "mini"), *sizes]
    assert name == "ImageNet"
    sizes = ["--data.image_size", "32", "--data.resize", "32", "--data.num_workers", "0"]
    if "." not in backbone:  # one of ours, which counts its costs for a size
        sizes += ["--model.backbone.image_size", "32"]
    return ["--data.root", str(photographs / "full"), *sizes]


QUICK = [
    "--data.batch_size=2",
    "--trainer.fast_dev_run=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def in_turn(every: Sequence[tuple[str, ...]]) -> list[Any]:
    """All commands as parameters; all but the first one of each folder are slow."""
    seen: set[Path] = set()
    rows = []
    for command in every:
        folder = Path(command[2]).parent
        rows.append(pytest.param(command, marks=[pytest.mark.slow] if folder in seen else []))
        seen.add(folder)
    return rows


def name_of_run(command: Sequence[str]) -> str:
    return " ".join(command[2:]).removeprefix("configs/")


@pytest.mark.parametrize("command", in_turn(RUNS), ids=name_of_run)
def test_a_config_trains_on_a_batch(
    command: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    cli = WiringCLI([*command, *tiny_data(command[2], request), *QUICK])
    assert cli.trainer.global_step == 1
    assert all(parameter.isfinite().all() for parameter in cli.model.parameters())
    gates = find_gates(cli.model).values()
    assert len(callbacks(cli, MaskConnect)) == bool(gates)
    for gate in gates:
        allowed = gate.scores >= 0
        uniform = allowed / allowed.sum(-1, keepdim=True)
        assert (gate.scores != uniform)[allowed].any(), "the scores have not learned"


# The tables of the papers' pages build those of the papers.
OTHERS = [
    path
    for path in CONFIGS
    if Path(path).parent.name not in ("bsn", "dnw", "maskconnect", "sparsenet")
    and ("fit", "--config", path) not in RUNS
]


@pytest.mark.parametrize("path", OTHERS)
def test_a_config_that_does_not_run_is_built(path: str, commands: Built) -> None:  # noqa: F811
    commands.build(["fit", "--config", path])
    settings = settings_of(path)
    named = [callback["class_path"] for callback in settings["trainer"]["callbacks"]]
    built = [type(callback).__name__ for callback in callbacks(commands, Callback)]
    assert set(named) <= set(built)
