"""Runs are compared by what they did: the config of their last fit, and what their logs tell."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.commands import BASE, ROOT, refused, succeed
from wiring_lightning.cli.comparable import different_curves, different_data, different_tables
from wiring_lightning.cli.papers import published
from wiring_lightning.cli.run_length import has_other_length, lengths
from wiring_lightning.cli.runs import Run, find_run

AVERAGE = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01}}
MOMENT = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 2}}
LATER = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 9}}
PATH = "configs/dnw/cifar10_graph_learned.yaml"


def changed(config: dict[str, Any], *stoppers: Any, **trainer: Any) -> dict[str, Any]:
    config = deepcopy(config)
    config["trainer"] |= trainer
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], *stoppers]
    return config


def run(folder: Path, *stoppers: Any, epoch: int | None = 4, step: int = 40, **trainer: Any) -> Run:
    """A run whose test was logged after so many epochs and steps; it was told to train four."""
    folder.mkdir()
    config = changed(BASE, *stoppers, **{"max_epochs": 4, "limit_train_batches": 1.0, **trainer})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    epochs = "" if epoch is None else f"{epoch}"
    numbers = f"epoch,step,val/acc,test/acc\n0,9,0.5,\n{epochs},{step},,0.75\n"
    (folder / "metrics.csv").write_text(numbers)
    return find_run(folder)


def test_the_last_fit_in_a_folder_counts(tmp_path: Path) -> None:
    for name, epochs in (("long", 8), ("on", 4)):
        run(tmp_path / name, epoch=8, max_epochs=epochs)
    first = changed(BASE, max_epochs=4)
    folder = tmp_path / "on"
    for number, config in {
        2: {**first, "ckpt_path": "a.ckpt"},
        10: changed(first, max_epochs=8, limit_train_batches=1.0) | {"ckpt_path": "b.ckpt"},
        11: changed(first, max_epochs=3) | {"verbose": True},  # `wiring test` there
        12: changed(first, max_epochs=2) | {"return_predictions": None},  # `wiring predict`
    }.items():
        (folder / f"config_{number}.yaml").write_text(yaml.safe_dump(config))
    found = find_run(folder)
    assert found.file.name == "config_10.yaml"
    assert found.config["trainer"]["max_epochs"] == 8
    assert not has_other_length(found)
    assert different_curves([found, find_run(tmp_path / "long")]) is None
    (folder / "config_13.yaml").write_text("model: [")
    assert f"{folder / 'config_13.yaml'} cannot be read as YAML" in refused("table", str(folder))


def test_a_folder_of_tests_alone_has_the_config_of_the_last(tmp_path: Path) -> None:
    for number, batches in (("", 1.0), ("_1", 2)):
        config = changed(BASE, limit_test_batches=batches) | {"verbose": True}
        (tmp_path / f"config{number}.yaml").write_text(yaml.safe_dump(config))
    assert find_run(tmp_path).file.name == "config_1.yaml"


# What a run did or was told, another run that did the same, and what both differ in from a run of
# four epochs. `None` for the other run: nothing does the same.
TRAINED: list[tuple[dict[str, Any], str]] = [
    ({"overfit_batches": 1}, "epochs (4 and 4 of the same 1 batch)"),
    ({"limit_train_batches": 1}, "epochs (4 and 4 of 1 batch)"),
    ({"limit_train_batches": 0.5}, "epochs (4 and 4 of 0.5 batches)"),
    ({"epoch": 3, "step": 30}, "epochs (4 and 3)"),
    ({"epoch": 6, "step": 60}, "epochs (4 and 6)"),  # its last fit was to be shorter
    ({"epoch": 3, "step": 30, "max_epochs": 2}, "epochs (4 and 3)"),
    ({"epoch": 3, "step": 30, "max_steps": 20}, "epochs (4 and 3)"),
    ({"stoppers": [MOMENT], "epoch": 2}, "epochs (4 and 2)"),
    ({"stoppers": [MOMENT], "epoch": None}, "epochs (4 and 4 or until EarlyStopping)"),
    ({"max_time": "00:01:00:00", "epoch": 2}, "epochs (4 and 2)"),
    ({"max_time": "00:01:00:00", "max_epochs": -1, "epoch": 7}, "epochs (4 and 7)"),
    ({"max_steps": 40}, "epochs (4 and 4 or 40 steps)"),
    ({"max_steps": 40, "step": 20, "epoch": 2}, "epochs (4 and 2)"),
    ({"limit_test_batches": 1}, "trainer.limit_test_batches (all and 1 batch)"),
    ({"limit_test_batches": 0.5}, "trainer.limit_test_batches (all and 0.5 batches)"),
]


@pytest.mark.parametrize(("options", "differ"), TRAINED)
def test_another_training_is_not_compared(
    options: dict[str, Any], differ: str, tmp_path: Path
) -> None:
    def like(name: str) -> Run:
        rest = {key: value for key, value in options.items() if key != "stoppers"}
        return run(tmp_path / name, *options.get("stoppers", []), **rest)

    whole, other, same = run(tmp_path / "whole"), like("other"), like("same")
    assert different_tables([whole, other], ["method"], "test/acc") == differ
    assert different_curves([whole, other]) == differ
    assert different_tables([same, other], ["method"], "test/acc") is None
    assert different_curves([same, other]) is None


@pytest.mark.parametrize(
    ("stoppers", "options"),
    [([MOMENT], {}), ([], {"max_time": "00:01:00:00"}), ([], {"limit_test_batches": None}),
     ([], {"limit_train_batches": None}), ([], {"limit_val_batches": 2})],
)  # fmt: skip
def test_what_did_the_same_is_compared(
    stoppers: list[Any], options: dict[str, Any], tmp_path: Path
) -> None:
    pair = [run(tmp_path / "whole"), run(tmp_path / "other", *stoppers, **options)]
    assert different_tables(pair, ["method"], "test/acc") is None


def test_one_rule_may_stop_every_run_elsewhere(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(epoch), MOMENT, epoch=epoch) for epoch in (2, 3)]
    assert different_tables(runs, ["method"], "test/acc") is None
    runs.append(run(tmp_path / "later", LATER))
    assert different_tables(runs, ["method"], "test/acc") == "epochs (2, 3 and 4)"


def test_as_many_validation_images_count_where_their_score_does(tmp_path: Path) -> None:
    pair = [run(tmp_path / str(batches), limit_val_batches=batches) for batches in (1, 2)]
    differ = "trainer.limit_val_batches (1 batch and 2 batches)"
    assert different_tables(pair, ["method"], "val/acc") == differ
    assert different_data(pair, ["val", "test"]) == differ
    assert different_data(pair) is None
    assert different_tables(pair, ["trainer.limit_val_batches"], "val/acc") is None


@pytest.mark.parametrize(
    "options",
    [{"overfit_batches": 1}, {"overfit_batches": 1.0}, {"limit_test_batches": 2},
     {"limit_train_batches": 1}, {"precision": "bf16-mixed"},
     {"gradient_clip_val": 1.0}],
)  # fmt: skip
def test_a_paper_did_something_else(options: dict[str, Any]) -> None:
    config = yaml.safe_load((ROOT / PATH).read_text())
    assert published(config)
    assert published(changed(config, limit_test_batches=1.0, precision="32-true"))
    assert published(changed(config, gradient_clip_algorithm="value"))  # nothing is clipped
    assert published(changed(config, **options)) == []


@pytest.mark.parametrize(
    ("stoppers", "options", "early"),
    [([], {}, False), ([], {"epoch": None}, False), ([MOMENT], {}, False),
     ([MOMENT], {"epoch": None}, True), ([MOMENT], {"epoch": 3}, True),
     ([], {"max_time": "00:01:00:00", "epoch": 1}, True), ([], {"epoch": 3}, True),
     ([], {"max_steps": 30, "epoch": 3, "step": 30}, False), ([], {"epoch": 5}, True),
     ([], {"max_steps": 30}, True),
     # It passes over the data once more, for the batch norms.
     ([AVERAGE], {}, False), ([AVERAGE], {"epoch": 5}, False), ([AVERAGE], {"epoch": 6}, True)],
)  # fmt: skip
def test_what_ended_early_is_no_papers_network(
    stoppers: list[Any], options: dict[str, Any], early: bool, tmp_path: Path
) -> None:
    assert has_other_length(run(tmp_path / "run", *stoppers, **options)) == early


# Epochs and steps that a run had logged as the command line does when a fit went on there with a
# logger of Lightning's, and what that one logged.
@pytest.mark.parametrize(
    ("before", "after", "done"),
    [((3, 30), (4, 40), 4), ((9, 90), (4, 40), 9), ((4, 40), (4, 40), 4)],
)
def test_epochs_are_those_of_the_logger_that_was_there_last(
    before: tuple[int, int], after: tuple[int, int], done: int, tmp_path: Path
) -> None:
    found = run(tmp_path / "run", epoch=after[0], step=after[1])
    numbers = "wiring/epoch,step,test/acc\n{},{},0.5\n".format(*before)
    (tmp_path / "run/metrics_1.csv").write_text(numbers)
    if before > after:  # it is the later one
        (tmp_path / "run/metrics.csv").rename(tmp_path / "run/metrics_0.csv")
    assert lengths([found]) == [{"epochs": str(done)}]
    assert found.last_step("test/acc") == max(before, after)[1]


def test_the_command_line_logs_how_long_it_trained(tmp_path: Path) -> None:
    """Lightning's own numbers, of a fit that stops after its second epoch."""
    stop = {
        "class_path": "EarlyStopping",
        "init_args": {"monitor": "val/loss", "stopping_threshold": 1e9},
    }
    config = changed(BASE, stop, max_epochs=9, limit_train_batches=2, min_epochs=2)
    config["trainer"] |= {"limit_test_batches": 1, "enable_progress_bar": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(config))
    for logger in ("true", "CSVLogger"):
        root = tmp_path / logger
        arguments = [f"--trainer.logger={logger}"]
        if logger != "true":
            arguments += [f"--trainer.logger.save_dir={root}"]
        succeed("fit", "--config", "base.yaml", f"--trainer.default_root_dir={root}", *arguments)
        found = find_run(root)
        assert has_other_length(found)
        assert lengths([found, run(root / "other")])[0] == {"epochs": "2 of 2 batches"}


def test_a_run_that_was_refused_leaves_no_last_config(tmp_path: Path) -> None:
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "logs", "name": "", "version": "one"},
    }
    config = changed(BASE, limit_train_batches=2, limit_test_batches=1, logger=logger)
    config["trainer"]["enable_progress_bar"] = False
    Path("base.yaml").write_text(yaml.safe_dump(config))
    succeed("fit", "--config", "base.yaml")
    (checkpoint,) = Path("logs").rglob("*.ckpt")
    again = ("fit", "--config", "base.yaml", "--ckpt_path", str(checkpoint))
    unknown = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc2")
    refused(*again, *unknown, "--trainer.num_sanity_val_steps=1", "--trainer.max_epochs=9")
    assert find_run("logs").file.name == "config.yaml"
    succeed(*again, "--trainer.max_epochs=2")
    assert find_run("logs").file.name == "config_1.yaml"
    assert not has_other_length(find_run("logs"))
