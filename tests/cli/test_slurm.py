"""In jobs of SLURM every run has its folder, and goes on only if its job is queued again."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint

from tests.cli.commands import Trained, refused, succeed, wiring, write
from tests.cli.test_run_folders import csv, short, tensorboard

JOB = {
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_JOB_ID": "77",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "here",
}


class Limit(Callback):
    """What Lightning does at SLURM's signal, and the end of the process; only once in a folder."""

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        path = Path(trainer.default_root_dir, "hpc_ckpt_1.ckpt")
        if trainer.global_step == 3 and not path.exists():
            trainer.save_checkpoint(path)
            raise TimeoutError("the job has no more time")


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)


def config(path: Path, logger: Any = True, limit: bool = True) -> str:
    made = short(logger, max_epochs=2, limit_train_batches=2)
    if limit:
        made["trainer"]["callbacks"].append({"class_path": "tests.cli.test_slurm.Limit"})
    return write(made, path)


def left(path: Path, logger: Any = True) -> str:
    """The config of a run whose job had no more time."""
    file = config(path, logger)
    assert "no more time" in refused("fit", "--config", file)
    return file


def folders(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.rglob("config.yaml"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same run outside of SLURM, which nothing ended."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        for name in JOB:
            patch.delenv(name, raising=False)
        report = succeed("fit", "--config", config(folder / "run.yaml", False, limit=False))
    return Trained(folder, "", "", report)


LOGGERS = {"default": True, "none": False, "a name": csv(name="", version="mine")}


@pytest.mark.parametrize(
    "logger",
    ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "a name"))],
)
def test_a_job_that_is_queued_again_goes_on_and_reports_what_it_has_trained(
    logger: str, whole: Trained, tmp_path: Path
) -> None:
    file = left(tmp_path / "run.yaml", LOGGERS[logger])
    (folder,) = folders(tmp_path)
    again = wiring("fit", "--config", file)
    assert again.code == 0, again.err
    assert "queued again, so training goes on from" in again.err
    assert folders(tmp_path) == [folder]
    assert list(tmp_path.rglob("config_1.yaml"))
    report = Trained(tmp_path, "", "", again.out)
    for label in ("test loss", "steps"):
        assert report.reported(label) == whole.reported(label)


def test_no_other_run_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = left(tmp_path / "run.yaml")
    untrained = "runs a network that was not trained"
    with pytest.warns(UserWarning, match=untrained):
        inside = wiring("test", "--config", file)
    others = (["--model.backbone.width=4"], [])
    for number, changes in enumerate(others):
        if not changes:
            monkeypatch.setenv("SLURM_JOB_ID", "78")
        run = wiring("fit", "--config", file, *changes)
        assert run.code == 0, run.err
        assert "hpc_ckpt_1.ckpt is not of this run and job, so training starts from sc" in run.err
        assert Trained(tmp_path, "", "", run.out).reported("steps").startswith("4,")
        assert f"version_{number + 2}" in run.out  # that of the test is 1
    for name in JOB:
        monkeypatch.delenv(name)
    with pytest.warns(UserWarning, match=untrained):
        assert inside.out == wiring("test", "--config", file).out


@pytest.mark.slow
def test_a_job_finds_its_own_checkpoint_beside_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = left(tmp_path / "run.yaml")
    own, other = tmp_path / "hpc_ckpt_1.ckpt", tmp_path / "hpc_ckpt_2.ckpt"
    own.rename(tmp_path / "kept")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    refused("fit", "--config", file)
    own.rename(other)
    (tmp_path / "kept").rename(own)
    (tmp_path / "hpc_ckpt_3.ckpt").write_bytes(b"no checkpoint")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert f"training goes on from {own}" in wiring("fit", "--config", file).err
    said = refused("test", "--config", file, "--ckpt_path=hpc")  # the last one, as Lightning does
    assert "hpc_ckpt_3.ckpt" in said


@pytest.mark.parametrize("tasks", [pytest.param(True, marks=pytest.mark.slow), False])
def test_runs_of_one_job_have_folders_of_their_own(
    tasks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = tensorboard(name="", version="mine") if tasks else True
    if not tasks:
        monkeypatch.delenv("SLURM_NTASKS")  # as without srun
    file = config(tmp_path / "run.yaml", logger, limit=False)
    assert ("mine" if tasks else "version_0") in succeed("fit", "--config", file)
    if tasks:  # a folder that a config names is that of the first run
        assert "mine of the logger is not empty" in refused("fit", "--config", file)
    else:
        assert "version_1" in succeed("fit", "--config", file)


@pytest.mark.slow
def test_a_checkpoint_of_an_exception_is_read_with_care(tmp_path: Path) -> None:
    """Lightning goes on from it without being told, in a job or not."""
    made = short(True, max_epochs=2, limit_train_batches=2)
    saver = {"class_path": f"{OnExceptionCheckpoint.__module__}.OnExceptionCheckpoint",
             "init_args": {"dirpath": str(tmp_path)}}  # fmt: skip
    made["trainer"]["callbacks"] += [{"class_path": "tests.cli.test_slurm.Limit"}, saver]
    file = write(made, tmp_path / "run.yaml")
    refused("fit", "--config", file)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"no checkpoint")
    said = refused("fit", "--config", file, "--model.backbone.fan_in=2")
    assert "on_exception.ckpt belongs to another network" in said
    again = wiring("fit", "--config", file)
    assert "an exception ended the last run, so training goes on from" in again.err
    assert Trained(tmp_path, "", "", again.out).reported("steps").startswith("4,")
