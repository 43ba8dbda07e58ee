"""What `wiring sweep` plans, and what it refuses before anything runs. Needs no Ray."""

import sys
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from tests.cli.commands import BASE, refused, wiring, write
from wiring_lightning.cli import sweep_child
from wiring_lightning.cli.sweep_lock import only_sweep_in
from wiring_lightning.cli.sweep_plan import name_of, plan, settings
from wiring_lightning.cli.sweep_state import Planned, SweepError


def test_every_run_has_its_setting_and_its_seeds(base: str, tmp_path: Path) -> None:
    chosen = settings(["model.backbone.fan_in=[1,2]"])
    runs = plan(["--config", base, "--trainer.max_epochs=4"], chosen, 2, tmp_path / "out")
    assert [run.name for run in runs] == [
        "fan_in_1-seed_0", "fan_in_1-seed_1", "fan_in_2-seed_0", "fan_in_2-seed_1",
    ]  # fmt: skip
    config = yaml.safe_load(runs[3].config.read_text())
    assert config["model"]["init_args"]["backbone"]["init_args"]["fan_in"] == 2
    assert config["trainer"]["max_epochs"] == 4
    (learner,) = config["trainer"]["callbacks"]
    seeds = config["seed_everything"], config["data"]["init_args"]["seed"]
    assert (*seeds, learner["init_args"]["seed"]) == (1, 1, 1)
    assert config["trainer"]["logger"]["init_args"]["version"] == "fan_in_2-seed_1"


def test_a_run_that_began_keeps_its_config(base: str, tmp_path: Path) -> None:
    (run,) = plan(["--config", base], [{}], 1, tmp_path)
    run.folder.mkdir()
    assert plan(["--config", base], [{}], 2, tmp_path)[0] == run  # more seeds may come later
    with pytest.raises(SweepError, match="began with another config: give the sweep another --out"):
        plan(["--config", base, "--data.batch_size=8"], [{}], 1, tmp_path)
    run.config.unlink()
    with pytest.raises(SweepError, match="is no run of this sweep"):
        plan(["--config", base], [{}], 1, tmp_path)


def test_what_is_left_of_a_run_decides_how_it_goes_on(tmp_path: Path) -> None:
    run = Planned("seed_0", tmp_path)
    fresh = ["fit", "--config", str(run.config)]
    assert run.command() == fresh
    run.config.parent.mkdir()
    run.folder.mkdir()
    (run.folder / "events").write_text("mine")
    assert run.command() == fresh  # there was no checkpoint yet
    assert not run.folder.exists()
    assert (tmp_path / ".sweep" / "seed_0.interrupted" / "events").read_text() == "mine"
    (run.folder / "checkpoints").mkdir(parents=True)
    checkpoint = run.folder / "checkpoints" / "epoch=1.ckpt"
    checkpoint.touch()
    assert run.command() == [*fresh, "--ckpt_path", str(checkpoint)]
    assert run.ended is None
    run.mark("done")
    assert run.ended == "done"


def test_names_are_folders_and_differ() -> None:
    assert name_of({"a.path": "x/../y z"}, 0) == "path_x_.._y_z-seed_0"
    assert name_of({"a.lr": 1, "b.lr": 1}, 0) == "a.lr_1-b.lr_1-seed_0"


def test_two_runs_of_one_name_are_refused(base: str, tmp_path: Path) -> None:
    chosen: list[dict[str, Any]] = [{"data.seed": "a/b"}, {"data.seed": "a b"}]
    names = {name_of(setting, 0) for setting in chosen}
    assert len(names) == 1
    same = [{"data.batch_size": 8}, {"data.batch_size": 8}]
    with pytest.raises(SweepError, match="Two runs would be called batch_size_8-seed_0"):
        plan(["--config", base], same, 1, tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["fan_in"], "--set fan_in is no KEY=VALUES"),
        (["a.b=[1]", "a.init_args.b=[2]"], "--set a.b is given twice"),
        (["a.b=[]"], "--set a.b has an empty list"),
        (["a.b=[1"], "has no values that YAML can read"),
        (["data.seed=[1,2]"], "--set data.seed is what --seeds sets"),
        (["trainer.callbacks.seed=1"], "--set trainer.callbacks.seed is what --seeds sets"),
        (["seed_everything=[1,2]"], "--set seed_everything is what --seeds sets"),
    ],
)
def test_bad_settings_are_one_sentence(given: list[str], said: str) -> None:
    with pytest.raises(SweepError, match=said.replace("[", r"\[")):
        settings(given)


def test_what_fit_refuses_is_refused_before_anything_runs(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan(["--config", base], settings(["trainer.max_epochz=[1]"]), 1, tmp_path)
    assert "max_epochz" in capsys.readouterr().err
    assert not list(tmp_path.rglob("seed_0*"))


REFUSED = {
    "--seed_everything=7": "--seed_everything is what --seeds sets: leave it out",
    "--data.init_args.seed=7": "--data.init_args.seed is what --seeds sets: leave it out",
    "--trainer.callbacks.dirpath=kept": "checkpoints in kept: leave out the dirpath of ModelChe",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_is_for_the_sweep_to_set_is_refused(option: str, base: str, tmp_path: Path) -> None:
    saver = ["--trainer.callbacks+=ModelCheckpoint"] * ("dirpath" in option)
    with pytest.raises(SweepError, match=REFUSED[option]):
        plan(["--config", base, *saver, option], [{}], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_no_folder_can_have_is_refused(base: str, tmp_path: Path) -> None:
    chosen = [{"trainer.default_root_dir": "x" * 240}]
    with pytest.raises(SweepError, match=r"default_root_dir_xx.* is too long for a folder"):
        plan(["--config", base], chosen, 1, tmp_path / "out")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_loggers_of_the_config_stay(number: int, base: str, tmp_path: Path) -> None:
    csv = {"class_path": "CSVLogger", "init_args": {"save_dir": "mine"}}
    given = [base]
    if number:
        logger = csv if number == 1 else [csv, csv]
        given += ["--config", write({"trainer": {"logger": logger}}, tmp_path / "logger.yaml")]
    (run,) = plan(["--config", *given], [{}], 1, tmp_path / "out")
    loggers = yaml.safe_load(run.config.read_text())["trainer"]["logger"]
    first, *others = loggers if isinstance(loggers, list) else [loggers]
    assert first["init_args"] == {"save_dir": str(run.root), "name": "", "version": "seed_0"}
    assert [other["init_args"]["save_dir"] for other in others] == ["mine"] * number


@pytest.mark.parametrize(("failed", "ended"), [({}, 1), ({"seed_1": "exit code 2"}, 1), ({}, 3)])
def test_runs_that_were_interrupted_are_not_called_ended(
    failed: dict[str, str], ended: int, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_all(todo: list[Planned], **_: Any) -> dict[str, str]:
        for run in todo[:1] if ended == 1 else todo:
            run.folder.mkdir()
            run.mark("done")
        return failed

    stub = SimpleNamespace(run_all=run_all)
    monkeypatch.setitem(sys.modules, "wiring_lightning.cli.sweep_run", cast(ModuleType, stub))
    swept = wiring("sweep", "--config", base, "--seeds=3")
    assert swept.code == (0 if ended == 3 else 1)
    assert ("all 3 runs ended" in swept.out) == (ended == 3)
    said = f"interrupted, {ended} of 3 runs ended; the same command goes on" in swept.out
    assert said == (ended < 3)
    assert ("1 of 3 runs failed" in swept.out) == bool(failed)


@pytest.mark.parametrize(
    ("ends", "code"),
    [(None, None), (SystemExit(), "the run ended before its fit did"), (SystemExit(2), 2)],
)
def test_only_a_run_that_came_to_its_end_is_done(
    ends: SystemExit | None, code: int | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(_: Any) -> None:
        if ends is not None:
            raise ends

    monkeypatch.setattr(sweep_child, "main", main)
    with pytest.raises(SystemExit) if code else nullcontext() as stop:
        sweep_child.run(["fit"])
    assert (stop.value.code if stop else None) == code


def test_one_sweep_at_a_time_in_a_folder(tmp_path: Path) -> None:
    second = only_sweep_in(tmp_path)
    with only_sweep_in(tmp_path), pytest.raises(SweepError, match="Another sweep is running"):
        second.__enter__()
    with only_sweep_in(tmp_path):
        pass


def test_bad_arguments_are_one_sentence(base: str) -> None:
    assert "--seeds must be at least 1, got 0" in refused("sweep", "--config", base, "--seeds=0")
    assert "as --KEY=VALUE, got 3" in refused("sweep", "--config", base, "--data.batch_size", "3")
    assert "--cpus must be above 0" in refused("sweep", "--config", base, "--cpus=0")
    assert "required: --config" in refused("sweep")


def test_without_ray_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("sweep_run", "sweep_trial"):
        monkeypatch.delitem(sys.modules, f"wiring_lightning.cli.{name}", raising=False)
    said = refused("sweep", "--config", write(deepcopy(BASE), tmp_path / "base.yaml"))
    assert said == "wiring sweep needs Ray Tune: pip install 'wiring_lightning[sweep]'"
    assert not Path("sweep").exists()
