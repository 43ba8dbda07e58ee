"""`wiring fit`, up to the report at its end."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.commands import (
    BASE,
    ROOT,
    Trained,
    checkpoint_in,
    process,
    succeed,
    weights_in,
    write,
)
from tests.trainers import same_state
from wiring_lightning.__main__ import main


@pytest.mark.slow
def test_all_three_ways_to_start_do_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        script = tomllib.load(file)["project"]["scripts"]["wiring"]
    assert script == f"{main.__module__}:{main.__name__}"
    folders = {name: tmp_path / name for name in ("module", "checkout")}
    for folder in folders.values():
        folder.mkdir()
    base = ["fit", "--config", write(BASE, tmp_path / "base.yaml")]
    running = process("-m", "wiring_lightning", *base, folder=folders["module"])
    out, err = running.communicate()
    assert running.returncode == 0, err
    assert trained.reported("test acc") in out
    monkeypatch.chdir(folders["checkout"])
    monkeypatch.setattr("sys.argv", ["cli.py", *base])
    runpy.run_path(str(ROOT / "cli.py"), run_name="__main__")
    for folder in folders.values():
        assert same_state(weights_in(checkpoint_in(folder)), weights_in(Path(trained.checkpoint)))


def test_the_report_has_everything(trained: Trained) -> None:
    assert 0 < float(trained.reported("test acc")) < 1
    total, live = re.match(r"([\d,]+) -> ([\d,]+) after", trained.reported("parameters")).groups()
    assert int(live.replace(",", "")) < int(total.replace(",", ""))
    modules = re.findall(r"(module\d) (\d)/6", trained.reported("live branches"))
    assert [name for name, _ in modules] == ["module1", "module2", "module3"]
    assert any(int(count) < 6 for _, count in modules)
    assert Path(trained.reported("picture")).read_bytes().startswith(b"\x89PNG")
    assert trained.reported("curves") == f"tensorboard --logdir {trained.folder}"
    assert list(trained.folder.glob("events.out.tfevents.*"))


@pytest.mark.slow
def test_the_resnext_on_digits_in_short(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/digits_resnext.yaml").read_text())
    callbacks = config["trainer"]["callbacks"]
    (phases,) = [c["init_args"]["phases"] for c in callbacks if "Phase" in c["class_path"]]
    for phase in phases:
        phase["epochs"] = 1
    out = succeed(
        "fit",
        f"--config={ROOT / 'configs/digits_resnext.yaml'}",
        "--trainer.accelerator=cpu",
        "--trainer.limit_train_batches=2",
        f"--trainer.callbacks={json.dumps(callbacks)}",
    )
    report = Trained(tmp_path, "", "", out)
    assert 0 < float(report.reported("test acc")) < 1
    assert re.fullmatch(
        r"[\d,]+ -> [\d,]+ after pruning \([\d.]+%\)", report.reported("parameters")
    )
    listed = out[out.index("\nlive branches") : out.index("\npicture")]
    depth = config["model"]["init_args"]["backbone"]["init_args"]["depth"]
    modules = range(1, (depth - 2) // 3 + 1)
    assert re.findall(r"module\d+", listed) == [f"module{i}" for i in modules]
    assert Path(report.reported("picture")).stat().st_size > 10_000
    folder = Path(report.reported("curves").removeprefix("tensorboard --logdir "))
    assert list(folder.glob("events.out.tfevents.*"))
    for shown in ("train/loss", "train/acc", "val/acc", "phase"):  # the progress bar
        assert re.search(rf"\b{shown}[:=]", out), shown
    saved = torch.load(checkpoint_in(folder), weights_only=True)
    assert saved["epoch"] + 1 == len(phases)
    assert all(value for name, value in saved["state_dict"].items() if name.endswith("frozen"))


def test_the_quick_start_in_short(tmp_path: Path) -> None:
    """Also that every network starts where chance is, before it has learned anything."""
    out = succeed(
        "fit",
        f"--config={ROOT / 'configs/quickstart.yaml'}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=2",
        "--data.size=256",
    )
    report = Trained(tmp_path, "", "", out)
    for name in ("acc", "acc_random", "acc_planted", "acc_constant"):
        assert 0 < float(report.reported(f"test {name}")) < 0.3
    assert report.reported("steps") == "4, MaskConnect learned in 2"
    assert re.fullmatch(r"\d+ of 16 \(4.0 by chance\)", report.reported("edges recovered"))
    assert Path(report.reported("picture")).stat().st_size > 10_000


@pytest.mark.slow
def test_the_quick_start_finds_the_right_wiring(tmp_path: Path) -> None:
    """In about half the time that its config gives it."""
    path = ROOT / "configs/quickstart.yaml"
    learner, schedule, _ = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
    together, frozen = schedule["init_args"]["phases"]
    assert (together["epochs"], frozen["epochs"]) == (15, 7)
    together["epochs"], frozen["epochs"] = 8, 4
    out = succeed(
        "fit",
        f"--config={path}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
        f"--trainer.callbacks={json.dumps([learner, schedule])}",
    )
    report = Trained(tmp_path, "", "", out)
    assert int(report.reported("edges recovered").partition(" of 16 ")[0]) >= 15
    learned, at_random, right, constant = (
        float(report.reported(f"test {name}"))
        for name in ("acc", "acc_random", "acc_planted", "acc_constant")
    )
    assert min(learned, right) > 0.75
    assert max(at_random, constant) < 0.25
    assert "close to chance" not in out


def test_a_fast_dev_run_ends_without_a_report(base: str, tmp_path: Path) -> None:
    out = succeed("fit", "--config", base, "--trainer.fast_dev_run=1")
    assert "after pruning" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["base.yaml"]
