"""Several runs: those that are not finished are passed over, and a checkpoint counts once."""

import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

import wiring_lightning.plots
from tests.cli.commands import BASE, checkpoint_in, refused, succeed, wiring, write

SKIPPED = "wiring: skipped, as not "


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`lightning_logs` with two finished runs that differ in their seed."""
    root = tmp_path_factory.mktemp("twice")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        for seed in (1, 2):
            config = deepcopy(BASE)
            config["seed_everything"] = seed
            config["trainer"] |= {"limit_train_batches": 3, "default_root_dir": str(root)}
            config["trainer"] |= {"limit_test_batches": 1, "enable_progress_bar": False}
            succeed("fit", "--config", write(config, root / "written.yaml"))
        yield root / "lightning_logs"


@pytest.fixture
def logs(trained_twice: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "lightning_logs"
    shutil.copytree(trained_twice, folder)
    return folder


def unfinished(logs: Path) -> dict[str, Path]:
    """Folders as they are left when something ends a run, by what they lack.

    The last two tested a network that computes NaN or infinite numbers.
    """
    lacks = ("config", "checkpoint", "test", "events", "everything", "nan", "inf")
    folders = {lack: logs / f"version_{number}" for number, lack in enumerate(lacks, start=2)}
    for name, folder in folders.items():
        shutil.copytree(logs / "version_0", folder)
        if name in ("config", "everything"):
            (folder / "config.yaml").unlink()
        if name in ("checkpoint", "everything"):
            shutil.rmtree(folder / "checkpoints")
        if name in ("test", "events", "everything"):
            for events in folder.glob("events*"):
                events.unlink()
        if name in ("test", "nan", "inf"):
            with SummaryWriter(str(folder)) as writer:
                writer.add_scalar("val/acc", 0.5 if name == "test" else float(name), 9)
                if name != "test":
                    writer.add_scalar("test/acc", float(name), 9)
    return folders


def folders(logs: Path) -> list[str]:
    return sorted(str(path) for path in logs.glob("version_*"))


NOT_MEASURED = ("config", "checkpoint", "test", "events", "everything", "nan", "inf")
COMMANDS = {
    "accuracy": (
        ("figure", "accuracy"),
        ("config", "test", "events", "everything", "nan", "inf"),
    ),
    # Without events nobody knows whether the run has ended.
    "active": (("figure", "active"), ("config", "checkpoint", "test", "everything")),
    "efficiency": (("figure", "efficiency"), NOT_MEASURED),
    "pareto": (("pareto",), NOT_MEASURED),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_unfinished_runs_are_passed_over_with_a_note(name: str, logs: Path) -> None:
    """What is drawn is what it would be without them."""
    command, lacking = COMMANDS[name]
    alone = [str(logs / "version_0"), str(logs / "version_1")]
    first = wiring(*command, *alone, "-o", "one.png")
    assert SKIPPED not in first.err
    left = unfinished(logs)
    second = wiring(*command, *alone, *(str(left[lack]) for lack in lacking), "-o", "two.png")
    assert second.code == 0, second.err
    notes = [line for line in second.err.splitlines() if line.startswith(SKIPPED)]
    assert len(notes) == len(lacking)
    for lack in lacking:
        assert sum(str(left[lack]) in note for note in notes) == 1
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert second.out.replace("two.", "one.") == first.out


@pytest.mark.parametrize("name", COMMANDS)
def test_no_finished_run_at_all_is_an_error(name: str, logs: Path) -> None:
    command, lacking = COMMANDS[name]
    left = unfinished(logs)
    for lack in lacking:
        if (name, lack) != ("active", "test"):  # one run may be looked at while it trains
            assert str(left[lack]) in refused(*command, str(left[lack]))
    refused(*command, *(str(left[lack]) for lack in lacking))


def test_a_folder_that_is_not_there_is_an_error(logs: Path) -> None:
    assert "nowhere does not exist" in refused("figure", "active", *folders(logs), "nowhere")


# A checkpoint that was tested again


def measure(logs: Path, version: str) -> None:
    config, checkpoint = logs / version / "config.yaml", checkpoint_in(logs / version)
    root = f"--trainer.default_root_dir={logs.parent}"
    succeed("test", "--config", str(config), "--ckpt_path", str(checkpoint), root)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many accuracies each figure shows."""
    counts: list[int] = []
    draw = wiring_lightning.plots.draw_accuracy

    def count(measurements: Sequence[Any], **settings: Any) -> Figure:
        counts.append(len(measurements))
        return draw(measurements, **settings)

    monkeypatch.setattr(wiring_lightning.plots, "draw_accuracy", count)
    return counts


def test_two_tests_of_one_checkpoint_count_once(logs: Path, counted: list[int]) -> None:
    for version in ("version_0", "version_0", "version_1"):
        measure(logs, version)
    tests = folders(logs)[2:]
    assert len(tests) == 3
    succeed("figure", "accuracy", *tests)
    # Beside the runs, which were tested at their end, none of them counts.
    run = wiring("figure", "accuracy", *folders(logs), "-o", "again.png")
    assert run.code == 0, run.err
    assert counted == [2, 2]
    notes = [line for line in run.err.splitlines() if "counted once" in line]
    again = [f"tests a checkpoint of {logs / f'version_{number}'} again" for number in (0, 0, 1)]
    assert len(notes) == 3
    assert all(text in line for text, line in zip(again, sorted(notes), strict=True))


def test_a_run_that_goes_on_is_one_of_its_own(logs: Path, counted: list[int]) -> None:
    config, checkpoint = logs / "version_0" / "config.yaml", checkpoint_in(logs / "version_0")
    more = ("--trainer.max_epochs=2", f"--trainer.default_root_dir={logs.parent}")
    succeed("fit", "--config", str(config), "--ckpt_path", str(checkpoint), *more)
    assert "differ in epochs" in refused("figure", "accuracy", *folders(logs))
    succeed("figure", "accuracy", *folders(logs), "--mix")
    assert counted == [3]
