"""A checkpoint that cannot be used is refused in one sentence."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import refused, wiring
from wiring_lightning.checkpoints import CheckpointError, load_checkpoint


def without(content: bytes, *keys: str) -> bytes:
    Path("whole.ckpt").write_bytes(content)
    checkpoint = torch.load("whole.ckpt", weights_only=True)
    return saved({key: value for key, value in checkpoint.items() if key not in keys})


def saved(content: Any) -> bytes:
    torch.save(content, "content.ckpt")
    return Path("content.ckpt").read_bytes()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda content: content[: len(content) // 2], "is damaged"),
    "almost whole": (lambda content: content[:-1], "is damaged"),
    "random bytes": (lambda content: random.Random(1).randbytes(4000), "is damaged"),
    "text": (lambda content: b"hello\n", "is damaged"),
    "empty": (lambda content: b"", "is damaged or is none (it is empty)"),
    "a list": (lambda content: saved([1, 2]), "holds a list, not a checkpoint"),
}


# `inspect` reads the file itself.
@pytest.mark.parametrize(
    ("subcommand", "damage"),
    [
        *(("fit", damage) for damage in (*DAMAGE, "missing", "a folder")),
        ("test", "truncated"),
        *(("inspect", damage) for damage in ("truncated", "a list", "missing")),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    subcommand: str, damage: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path, expected = tmp_path / "damaged.ckpt", "There is no checkpoint at"
    if damage in DAMAGE:
        spoil, expected = DAMAGE[damage]
        path.write_bytes(spoil(content))
    elif damage == "a folder":
        path.mkdir()
    said = refused(subcommand, "--config", file, "--ckpt_path", str(path))
    assert expected in said
    assert str(path) in said
    with pytest.raises(CheckpointError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        load_checkpoint(path)


SHAPE = ("cardinality=5", "backbone.blocks.module1.reduce.weight is 12 x 16 x 1 x 1 there and 10")


@pytest.mark.parametrize(
    ("subcommand", "option", "reason"),
    [
        *((subcommand, *SHAPE) for subcommand in ("fit", "validate", "test", "predict", "inspect")),
        ("fit", "depth=20", "backbone.blocks.module2.reduce.weight is"),
        ("fit", "wiring=full", "backbone.connections.module2.scores is missing here"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    subcommand: str, option: str, reason: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    said = refused(
        subcommand, "--config", file, "--ckpt_path", str(path), f"--model.backbone.{option}"
    )
    assert f"{path} belongs to another network than the config describes ({reason}" in said
    assert "use the config.yaml that was saved beside it" in said


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_what_is_no_checkpoint_of_a_trainer_is_refused(
    subcommand: str, run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "bare.ckpt"
    path.write_bytes(without(content, "pytorch-lightning_version"))
    said = refused(subcommand, "--config", file, "--ckpt_path", str(path))
    assert f"{path} is no checkpoint of a Lightning trainer" in said


def test_training_cannot_continue_from_weights_alone(
    run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, content = run
    path = tmp_path / "weights.ckpt"
    path.write_bytes(without(content, "optimizer_states", "lr_schedulers", "loops", "callbacks"))
    said = refused("fit", "--config", file, "--ckpt_path", str(path))
    assert f"{path} holds weights only, and training cannot continue from it" in said
    assert wiring("test", "--config", file, "--ckpt_path", str(path)).code == 0
