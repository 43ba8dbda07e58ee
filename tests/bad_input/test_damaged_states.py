"""Whatever is wrong with the parts of a checkpoint, a command ends in one sentence or well."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.bad_input.configs import callbacks, config_with, trainer
from tests.bad_input.draws import draws
from tests.cli.commands import refused, wiring, write

WRONG: list[Any] = [None, True, 7, -1, 0.5, float("nan"), "text", [], [1], {}, {"a": 1}]
WRONG += [torch.ones(3), torch.zeros(())]
PARTS = ("loops", "callbacks", "optimizer_states", "lr_schedulers", "state_dict", "Digits", "epoch")


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value is in a tree of dicts and lists."""
    if path:
        yield path
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*path, key))


def spoil(content: dict[str, Any], seed: int) -> str:
    """Remove or replace one value; say which."""
    chance = random.Random(seed)
    part = chance.choice([part for part in PARTS if part in content])
    path = chance.choice(list(places(content[part], (part,))))
    inside: Any = content
    for key in path[:-1]:
        inside = inside[key]
    if chance.random() < 0.2:
        del inside[path[-1]]
        return f"without {path}"
    inside[path[-1]] = chance.choice(WRONG)
    return f"{path} is {inside[path[-1]]!r}"


@pytest.fixture(scope="module")
def longer(run: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config with which the run of the checkpoint goes on for one step."""
    change = trainer(max_epochs=2, limit_train_batches=1, enable_checkpointing=False)
    return write(config_with(change), tmp_path_factory.mktemp("longer") / "longer.yaml")


def check(seed: int, run: tuple[str, bytes], longer: str, folder: Path) -> None:
    file, good = run
    content = torch.load(io.BytesIO(good), weights_only=True)
    what = spoil(content, seed)
    torch.save(content, folder / "spoilt.ckpt")
    subcommand = ("fit", "test", "inspect")[seed % 3]
    file = longer if subcommand == "fit" else file
    try:
        ended = wiring(subcommand, "--config", file, f"--ckpt_path={folder / 'spoilt.ckpt'}")
    except Exception as error:
        pytest.fail(f"{subcommand}, {what}: {error!r}")
    assert ended.code in (0, 2), what
    assert ended.err.count("wiring: error: ") == ended.code // 2, (what, ended.err)


@pytest.mark.parametrize("seed", range(9))
def test_no_damage_ends_in_a_traceback(
    seed: int, run: tuple[str, bytes], longer: str, tmp_path: Path
) -> None:
    check(seed, run, longer, tmp_path)


@pytest.mark.slow
def test_no_damage_of_many_ends_in_a_traceback(
    run: tuple[str, bytes], longer: str, tmp_path: Path
) -> None:
    for seed in range(1000, 1000 + draws(40)):
        check(seed, run, longer, tmp_path)


class Fails(Callback):
    """A callback of a user with a mistake."""

    def on_train_start(self, *_: Any) -> None:
        raise TypeError("a mistake of the user")


class CannotGoOn(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"steps": 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        raise KeyError("epochs")


def test_an_error_in_the_users_code_keeps_its_traceback(
    run: tuple[str, bytes], tmp_path: Path
) -> None:
    file, good = run
    (tmp_path / "good.ckpt").write_bytes(good)
    fails = ("tests.bad_input.test_damaged_states.Fails", {})
    file = write(config_with(callbacks(("MaskConnect", {}), fails)), tmp_path / "fails.yaml")
    with pytest.raises(TypeError, match="a mistake of the user"):
        wiring("fit", "--config", file, "--ckpt_path=good.ckpt", "--trainer.max_epochs=2")


def test_a_state_that_a_callback_cannot_take_is_named(tmp_path: Path) -> None:
    cannot = ("tests.bad_input.test_damaged_states.CannotGoOn", {})
    saver = ("ModelCheckpoint", {"dirpath": "kept", "filename": "one"})
    config = config_with(callbacks(("MaskConnect", {}), cannot, saver))
    file = write(config, tmp_path / "cannot.yaml")
    assert wiring("fit", "--config", file).code == 0
    said = refused("fit", "--config", file, "--ckpt_path=kept/one.ckpt")
    assert "kept/one.ckpt cannot be loaded with this config ('epochs')" in said
