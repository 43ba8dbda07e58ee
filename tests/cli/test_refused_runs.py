"""A run that is refused leaves nothing; one that has done something keeps all of it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from tests.cli.commands import BASE, checkpoint_in, process, refused, succeed, write
from tests.cli.test_run_folders import LOGGERS, csv, tensorboard
from wiring_lightning.cli.launchers import check_launcher


class Fails(Callback):
    """Refuses to go on in one hook."""

    def __init__(self, hook: str, after: int = 0, writes: str = "") -> None:
        self.left, self.writes = after, writes
        setattr(self, hook, self._refuse)

    def _refuse(self, trainer: Any, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            if self.writes:
                (Path(trainer.log_dir) / self.writes).write_text("mine")
            raise MisconfigurationException("As it was told to.")


def fails(hook: str, **settings: Any) -> list[dict[str, Any]]:
    settings = {"hook": hook, **settings}
    return [{"class_path": "tests.cli.test_refused_runs.Fails", "init_args": settings}]


def learner(name: str, **settings: Any) -> list[dict[str, Any]]:
    return [{"class_path": name, "init_args": settings}]


def config(**trainer: Any) -> dict[str, Any]:
    changed = deepcopy(BASE)
    changed["model"]["init_args"]["backbone"]["init_args"]["wiring"] = "random"
    changed["data"]["init_args"]["batch_size"] = 16
    changed["trainer"] |= {"limit_train_batches": 2, "limit_test_batches": 1, "callbacks": []}
    changed["trainer"] |= {"enable_progress_bar": False, **trainer}
    return changed


def files(folder: Path) -> list[str]:
    """The files of runs, and what is called like the folder of one."""
    found = [path for path in folder.rglob("*") if path.suffix != ".yaml" or path.parent != folder]
    named = [path for path in found if path.is_file() or path.name.startswith("version_")]
    return sorted(str(path.relative_to(folder)) for path in named)


PHASES = [{"epochs": 1}, {"epochs": 1}, {"epochs": 1}]
REFUSALS: dict[str, dict[str, Any]] = {
    "too short for its phases": {"callbacks": "phases"},
    "no gate": {"callbacks": learner("MaskConnect", lr=0.5)},
    "when the fit starts": {"callbacks": fails("on_fit_start")},
    "after the check of validation": {
        "callbacks": fails("on_train_start"),
        "num_sanity_val_steps": 1,
    },
    "at the first batch": {"callbacks": fails("on_train_batch_start")},
    "no batch": {"limit_train_batches": 0},
    "processes that are copies": {"strategy": "ddp_spawn"},
    "a strategy of a class": {
        "strategy": {"class_path": "DDPStrategy", "init_args": {"start_method": "fork"}}
    },
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_fit_that_is_refused_leaves_nothing(name: str, tmp_path: Path) -> None:
    changed = config(**REFUSALS[name])
    if changed["trainer"]["callbacks"] == "phases":
        changed["trainer"]["callbacks"] = learner("PhaseSchedule", phases=PHASES)
    said = refused("fit", "--config", write(changed, tmp_path / "mine.yaml"))
    assert not said.startswith("unexpected")
    assert files(tmp_path) == []


NAMED = {
    "named": tensorboard(name="my", version="first"),
    "named tables": csv(name="my", version="1"),
}


@pytest.mark.parametrize(
    "name", [*(name for name in LOGGERS if name not in ("one without a folder", "curves")), *NAMED]
)  # both are among the two kinds
def test_nothing_is_left_with_any_logger(name: str, tmp_path: Path) -> None:
    changed = config(logger={**LOGGERS, **NAMED}[name], callbacks=fails("on_fit_start"))
    said = refused("fit", "--config", write(changed, tmp_path / "mine.yaml"))
    assert said == "As it was told to."
    assert files(tmp_path) == []


def test_after_mistakes_the_first_run_is_the_first(tmp_path: Path) -> None:
    file = write(config(callbacks=fails("on_fit_start")), tmp_path / "mine.yaml")
    for _ in range(2):
        assert refused("fit", "--config", file) == "As it was told to."
    succeed("fit", "--config", file, "--trainer.callbacks=null")
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]


@pytest.mark.parametrize("hook", ["on_before_zero_grad", "on_train_epoch_end"])
def test_a_fit_that_has_taken_a_step_keeps_its_folder(hook: str, tmp_path: Path) -> None:
    # Lightning calls `on_before_zero_grad` before the step, so the second one follows a step.
    changed = config(callbacks=fails(hook, after=int(hook == "on_before_zero_grad")))
    refused("fit", "--config", write(changed, tmp_path / "mine.yaml"))
    (folder,) = (tmp_path / "lightning_logs").iterdir()
    assert {path.name.partition(".")[0] for path in folder.iterdir()} >= {"config", "events"}


@pytest.mark.parametrize("name", ["notes.txt", "events.out.tfevents.1.elsewhere.0.0"])
def test_what_else_is_in_the_folder_stays_with_the_rest(name: str, tmp_path: Path) -> None:
    changed = config(callbacks=fails("on_fit_start", writes=name))
    refused("fit", "--config", write(changed, tmp_path / "mine.yaml"))
    (folder,) = (tmp_path / "lightning_logs").iterdir()
    assert (folder / name).read_text() == "mine"
    assert (folder / "config.yaml").is_file()


def test_a_folder_that_was_there_stays_as_it_was(tmp_path: Path) -> None:
    file = write(config(logger=tensorboard(name="my", version="first")), tmp_path / "mine.yaml")
    succeed("fit", "--config", file)
    folder = tmp_path / "my/first"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bad = config(logger=tensorboard(name="my", version="first"), callbacks=fails("on_fit_start"))
    given = (
        "--config",
        write(bad, tmp_path / "bad.yaml"),
        "--ckpt_path",
        str(checkpoint_in(folder)),
    )
    assert refused("fit", *given, "--trainer.max_epochs=2") == "As it was told to."
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("subcommand", ["test", "validate", "predict"])
def test_other_commands_too(subcommand: str, tmp_path: Path) -> None:
    early, late = (config(callbacks=fails(f"on_{subcommand}_{when}")) for when in ("start", "end"))
    if subcommand == "validate":
        early, late = (config(callbacks=fails(f"on_validation_{w}")) for w in ("start", "end"))
    refused(subcommand, "--config", write(early, tmp_path / "early.yaml"))
    assert files(tmp_path) == []
    refused(subcommand, "--config", write(late, tmp_path / "late.yaml"))
    assert "lightning_logs/version_0/config.yaml" in files(tmp_path)


LIMIT = "limit_{}_batches is 0, so there is nothing to {}: leave it out, or raise it."
WITHOUT_BATCHES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no validation images": ("validate", {}, "set some aside (such as with --data.val_size)"),
    "no validation": ("validate", {"limit_val_batches": 0}, LIMIT.format("val", "validate")),
    "no test": ("test", {"limit_test_batches": 0.0}, LIMIT.format("test", "test")),
    "no prediction": ("predict", {"limit_predict_batches": 0}, LIMIT.format("predict", "predict")),
}


@pytest.mark.parametrize("name", WITHOUT_BATCHES)
@pytest.mark.filterwarnings("ignore:PredictionWriter")
def test_an_evaluation_without_a_batch_is_refused(name: str, tmp_path: Path) -> None:
    subcommand, limits, sentence = WITHOUT_BATCHES[name]
    changed = config(**limits)
    if not limits:
        changed["data"]["init_args"]["val_size"] = 0
    assert sentence in refused(subcommand, "--config", write(changed, tmp_path / "mine.yaml"))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["ddp_spawn", "ddp_fork", "ddp_notebook_find_unused_parameters_true"]
)
def test_strategies_that_copy_the_process_are_refused(name: str) -> None:
    with pytest.raises(MisconfigurationException, match=r"use ddp \(--trainer\.strategy=ddp"):
        check_launcher(Trainer(accelerator="cpu", strategy=name, logger=False))
    check_launcher(Trainer(accelerator="cpu", strategy="ddp", devices=2, logger=False))


@pytest.mark.parametrize("logger", [True, False, "named"])
def test_a_folder_that_cannot_be_made_is_named(logger: Any, tmp_path: Path) -> None:
    changed = config(default_root_dir=str(tmp_path / "mine.yaml/runs"), logger=logger)
    if logger == "named":
        named = csv(save_dir=str(tmp_path / "mine.yaml/runs"), version="first")
        changed["trainer"] |= {"logger": named, "enable_checkpointing": False}
    said = refused("fit", "--config", write(changed, tmp_path / "mine.yaml"))
    assert f"cannot be written: {tmp_path}/mine.yaml is no folder; name another place." in said
    assert files(tmp_path) == []


@pytest.mark.slow
def test_nothing_comes_back_when_the_process_ends(tmp_path: Path) -> None:
    file = write(config(callbacks=fails("on_fit_start")), tmp_path / "mine.yaml")
    running = process("-m", "wiring_lightning", "fit", "--config", file, folder=tmp_path)
    _, said = running.communicate()
    assert running.returncode == 2, said
    assert "Traceback" not in said
    assert files(tmp_path) == []
