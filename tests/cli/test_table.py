"""`wiring table`: rows, statistics, costs, refusals, from folders like those of `wiring fit`."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

import wiring_lightning
from tests.cli.commands import BASE, Trained, checkpoint_in, refused, succeed, wiring, write
from wiring_lightning.cli import several_runs
from wiring_lightning.cli.code_version import code_version, version_in
from wiring_lightning.cli.direction import less_is_better
from wiring_lightning.cli.runs import find_run

MakeRun = Callable[..., Path]
RANDOM = {"model.backbone.wiring": "random", "trainer.callbacks": None}
SCORES = {"learned": [0.91, 0.93, 0.95], "random": [0.90, 0.94, 0.92]}


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The config of a run with all its defaults."""
    file = tmp_path_factory.mktemp("printed") / "base.yaml"
    return yaml.safe_load(succeed("fit", "--config", write(BASE, file), "--print_config"))


@pytest.fixture
def make_run(printed: dict[str, Any], tmp_path: Path) -> MakeRun:
    def make(
        name: str,
        acc: float | None,
        changes: dict[str, Any] | None = None,
        code: str = "1.0",
        fits: bool = True,
    ) -> Path:
        """A folder as `wiring fit` leaves it, without a checkpoint."""
        config = deepcopy(printed)
        for key, value in (changes or {}).items():
            *parts, last = key.split(".")
            part = config
            for one in parts:
                part = part[one]
                part = part.get("init_args", part)
            part[last] = value
        folder = tmp_path / name
        folder.mkdir()
        header = f"# wiring_lightning=={code}\n" if code else ""
        (folder / "config.yaml").write_text(header + yaml.safe_dump(config))
        with SummaryWriter(str(folder)) as writer:
            if fits:
                writer.add_scalar("val/acc", 0.5, 1)
            if acc is not None:
                writer.add_scalar("test/acc", acc, 1)
                writer.add_scalar("test/loss", 1 - acc, 1)
        return folder

    return make


@pytest.fixture
def six(make_run: MakeRun) -> list[str]:
    """Three seeds of two methods, in another order of seeds."""
    runs = [make_run(f"r{seed}", SCORES["random"][seed], {**RANDOM, "seed_everything": seed})
            for seed in range(3)]  # fmt: skip
    runs += [make_run(f"l{seed}", SCORES["learned"][seed], {"seed_everything": seed})
             for seed in (2, 0, 1)]  # fmt: skip
    return list(map(str, runs))


def read(markdown: str) -> list[dict[str, str]]:
    """The rows of the first table in a text."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


# What a table says


def test_statistics_are_those_of_numpy(six: list[str]) -> None:
    out = succeed("table", *six, "--csv", "table.csv")
    random, learned = read(out)
    assert list(random.values())[:4] == ["ResNeXt, random, K = 1", "3", "94.00", "92.00 ± 2.00"]
    assert learned["backbone, wiring, learner"] == "ResNeXt, learned, K = 1, MaskConnect"
    gaps = np.subtract(SCORES["learned"], SCORES["random"])
    error = gaps.std(ddof=1) / np.sqrt(3)
    column = "difference to ResNeXt, random, K = 1, ± se (pairs)"
    assert random[column] == "-"
    assert learned[column] == f"{100 * gaps.mean():+.2f} ± {100 * error:.2f} (3)"
    assert "differ in" not in out
    with Path("table.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(second["mean"]) == pytest.approx(np.mean(SCORES["learned"]), abs=1e-6)
    assert float(second["sd"]) == pytest.approx(np.std(SCORES["learned"], ddof=1), abs=1e-6)
    assert float(second["se"]) == pytest.approx(error, abs=1e-6)
    assert (second["pairs"], second["seeds"]) == ("3", "2 0 1")
    assert (first["difference"], first["parameters"]) == ("", "")


def test_rows_are_named_by_any_key(make_run: MakeRun) -> None:
    runs = [make_run(f"k{k}", 0.5 + k / 10, {"model.backbone.fan_in": k}) for k in (1, 2, 4)]
    for key in ("model.backbone.fan_in", "model.init_args.backbone.init_args.fan_in"):
        rows = read(succeed("table", *map(str, runs), "--by", key, "--against", "2"))
        assert [row[key] for row in rows] == ["1", "2", "4"]
        gaps = [row["difference to 2, ± se (pairs)"] for row in rows]
        assert gaps == ["-10.00 (1)", "-", "+20.00 (1)"]
    out = succeed("table", str(runs[0]), "--by=trainer.callbacks.MaskConnect.lr", "--by=data")
    (row,) = read(out)
    assert list(row.values())[:4] == ["0.5", "Digits", "1", "60.00"]


def test_other_scores_and_their_best(six: list[str]) -> None:
    random, _ = read(succeed("table", *six, "--score", "test/loss"))
    assert random["best test/loss"] == "0.0600"  # the smallest
    assert random["mean ± sd"] == "0.0800 ± 0.0200"


@pytest.mark.parametrize("name", ["test/top1_error", "test/err", "test/perplexity", "test/mae"])
def test_errors_of_any_name_are_best_if_small(name: str) -> None:
    assert less_is_better(name)
    assert not less_is_better(name.replace(name.partition("/")[2], "terrain_acc"))


def test_without_a_common_seed_there_is_no_difference(make_run: MakeRun) -> None:
    runs = make_run("a", 0.5, {"seed_everything": 1}), make_run("b", 0.5, RANDOM)
    _, row = read(succeed("table", *map(str, runs)))
    assert "no seed in common" in row.values()


def test_a_row_says_which_settings_it_pools(make_run: MakeRun) -> None:
    runs = [make_run(f"r{lr}", 0.5, {"data.batch_size": lr}) for lr in (8, 16)]
    out = succeed("table", *map(str, runs))
    assert "differ in data.batch_size (8 and 16)." in out
    again = [str(make_run(name, 0.5)) for name in ("one", "two")]
    assert "differ in nothing, not even in their seeds." in succeed("table", *again)


def test_sizes_and_score_of_a_trained_run(trained: Trained) -> None:
    (row,) = read(succeed("table", str(trained.folder), "--csv=one.csv"))
    said = json.loads(
        succeed("inspect", "--config", trained.config, "--ckpt_path", trained.checkpoint,
                "--format", "json")
    )  # fmt: skip
    for column, key in (("parameters", "params"), ("multiply-adds", "multiply_adds")):
        assert row[column] == f"{said[key]['total']:,} → {said[key]['live']:,}"
    assert row["mean ± sd"] == f"{100 * float(trained.reported('test acc')):.2f}"
    with Path("one.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["live_parameters"]) == said["params"]["live"]


def test_a_cost_of_another_step_than_the_score_is_said(trained: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    assert "last checkpoint" not in succeed("table", str(folder), "--score=val/acc")
    path = checkpoint_in(folder)
    content = torch.load(path, weights_only=True)
    content["global_step"] = 4
    content["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] = 4
    torch.save(content, path)
    said = f"The costs of {folder} are those of its last checkpoint, of step 4, but its test/acc is"
    assert f"{said} that of step 10: keep" in succeed("table", str(folder))
    run = wiring("pareto", str(folder), "-o", "p.png")
    assert (run.code, said in run.err) == (0, True)


def test_zeros_beside_a_wiring_are_told(trained: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "run"))
    path = checkpoint_in(folder)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["backbone.classifier.weight"][3:] = 0
    torch.save(content, path)
    assert "also those that are zero in sparse layers" in succeed("table", str(folder))
    assert "sparse layers" not in succeed("table", str(trained.folder))
    assert "zero in sparse layers" in wiring("pareto", str(folder), "-o", "p.png").err
    command = "inspect", "--config", trained.config, "--format=json", "--ckpt_path"
    said, whole = (json.loads(succeed(*command, str(one))) for one in (path, trained.checkpoint))
    lost = content["state_dict"]["backbone.classifier.weight"][3:].numel()
    assert said["weights"]["total"] - said["weights"]["nonzero"] == lost
    adds = said["sparse_multiply_adds"]
    assert (adds["total"], adds["total"] - adds["nonzero"]) == (
        said["multiply_adds"]["total"],
        lost,
    )
    assert "weights" not in whole


def test_the_picture_has_every_run(six: list[str], saved: list[Figure]) -> None:
    succeed("table", *six, "--picture", "table.svg")
    assert "<svg" in Path("table.svg").read_text()
    (axes,) = saved[0].axes
    drawn = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn[0], np.multiply(SCORES["random"], 100), atol=1e-4)
    assert axes.get_xlabel() == "test/acc (%)"


# What does not belong into one table


@pytest.mark.parametrize(
    ("changes", "code", "what"),
    [
        ({"data.val_size": 100}, "1.0", "data.val_size (200 and 100)"),
        ({"data": {"class_path": "CIFAR10"}}, "1.0", "data (Digits and CIFAR10)"),
        ({"trainer.max_epochs": 3}, "1.0", "epochs (1 of 10 batches and 3 of 10 batches)"),
        ({}, "2.0", "code version (1.0 and 2.0)"),
        ({}, "", "code version (1.0 and not recorded)"),
    ],
)
def test_runs_that_differ_are_refused_unless_told(
    make_run: MakeRun, changes: dict[str, Any], code: str, what: str
) -> None:
    runs = str(make_run("a", 0.5)), str(make_run("b", 0.6, {**changes, "seed_everything": 1}, code))
    assert f"The runs differ in {what}: give runs that agree, or --mix" in refused("table", *runs)
    assert f"\nThe runs differ in {what}.\n" in succeed("table", *runs, "--mix")


@pytest.mark.parametrize("kind", ["ImageFolder", "ImageMaskFolder", "MiniImageNet"])
def test_another_root_has_other_pictures(make_run: MakeRun, kind: str) -> None:
    def run(name: str, root: str) -> str:
        data = {"class_path": f"wiring_lightning.data.{kind}", "init_args": {"root": root}}
        return str(make_run(name, 0.5, {"data": data}))

    cats, again, dogs = run("a", "/pets/cats"), run("b", "/pets/cats/"), run("c", "/pets/dogs")
    what = "The runs differ in data.root (/pets/cats and /pets/dogs)"
    assert f"{what}: give runs that agree" in refused("table", cats, dogs)
    assert "data.root" not in succeed("table", cats, again)


def test_released_data_are_the_same_anywhere(make_run: MakeRun) -> None:
    roots = ("here", "there")
    runs = [str(make_run(root, 0.5, {"data": {"class_path": "CIFAR10",
                                              "init_args": {"root": root}}}))
            for root in roots]  # fmt: skip
    assert "root" not in succeed("table", *runs)


def test_what_names_the_rows_may_differ(make_run: MakeRun) -> None:
    long, short = make_run("a", 0.5), make_run("b", 0.6, {"trainer.max_epochs": 3})
    assert len(read(succeed("table", str(long), str(short), "--by=trainer.max_epochs"))) == 2


def test_a_run_records_its_code(trained: Trained) -> None:
    assert version_in(Path(trained.config).read_text()) == code_version()
    assert code_version().startswith(wiring_lightning.__version__)


# Which runs are tests of others


@pytest.mark.parametrize(
    ("path", "moved"),
    [
        ("logs/fit/checkpoints/a.ckpt", False),  # from the folder where the command was given
        ("logs/fit/checkpoints/a.ckpt", True),
        ("/nowhere/logs/fit/checkpoints/a.ckpt", True),
        ("fit/checkpoints/a.ckpt", False),
    ],
)
def test_a_tested_checkpoint_counts_once_from_any_folder(
    make_run: MakeRun, tmp_path: Path, path: str, moved: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "work" / "logs"
    logs.mkdir(parents=True)
    fitted, other = make_run("fit", 0.5), make_run("other", 0.5)
    tested = make_run("test", 0.5, {"ckpt_path": path}, fits=False)
    for folder in (fitted, other):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "a.ckpt").touch()
    runs = [folder.rename(logs / folder.name) for folder in (tested, other, fitted)]
    if moved:
        logs.rename(tmp_path / "moved")
        runs = [tmp_path / "moved" / folder.name for folder in runs]
    assert [run.folder for run in several_runs.tested_once(list(map(find_run, runs)))] == runs[1:]
    assert f"{runs[0]} tests a checkpoint of {runs[2]} again" in capsys.readouterr().err


def test_a_fit_that_goes_on_is_no_test(make_run: MakeRun) -> None:
    first = make_run("first", 0.5)
    (first / "a.ckpt").touch()
    second = make_run("second", 0.6, {"ckpt_path": str(first / "a.ckpt")})
    runs = [find_run(first), find_run(second)]
    assert several_runs.tested_once(runs) == runs


# What is left out, and bad input


def test_unfinished_runs_are_named_in_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    good, bad = make_run("good", 0.5), make_run("bad", None)
    worse = make_run("worse", None)
    said = wiring("table", str(good), str(bad), str(worse), "--score=val/acc")
    (line,) = [line for line in said.err.splitlines() if "not finished" in line]
    assert line == f"wiring: left out 2 runs, not finished or failed: {bad}, {worse}"
    assert len(read(said.out)) == 1
    assert "None of the 2 runs is finished" in refused("table", str(bad), str(worse))


def test_folders_without_a_run_are_named_as_such(make_run: MakeRun, tmp_path: Path) -> None:
    good = str(make_run("good", 0.5))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    make_run("a/b/c/run", 0.5)
    said = wiring("table", good, "empty", "a")
    what = "left out 2 folders, without a config.yaml at most 2 folders deep"
    assert f"wiring: {what}: empty, a\n" in said.err
    assert "holds no config.yaml" in refused("table", "a")
    assert len(read(succeed("table", good, "a/b/c/run"))) == 1


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_left_out(score: float, make_run: MakeRun) -> None:
    good, other = (str(make_run(name, 0.5, {"seed_everything": len(name)})) for name in "ab")
    bad = str(make_run("bad", score))
    said = wiring("table", good, other, bad)
    assert said.code == 0
    assert f"left out 1 run, of which test/acc is NaN or infinite: {bad}" in said.err
    assert [row["mean ± sd"] for row in read(said.out)] == ["50.00 ± 0.00"]
    assert f"No run has a finite test/acc: that of {bad} is {score}" in refused("table", bad)


def test_bad_requests_are_one_sentence(six: list[str], make_run: MakeRun) -> None:
    one = six[0]
    assert "does not exist" in refused("table", "nowhere")
    assert "is given 2 times" in refused("table", one, one)
    assert "has no test/miou: give --score one of" in refused("table", one, "--score=test/miou")
    said = refused("table", one, "--by=model.backbone.fan_im")
    assert said.startswith("No run has the key model.backbone.fan_im: did you mean model.backbone.")
    assert "No run has the key zzz" in refused("table", one, "--by=zzz")
    said = refused("table", *six, "--against=dense")
    assert "No row has the name dense: give --against one of ResNeXt, random, K = 1; " in said
    assert "2 rows have the name ResNeXt" in refused("table", *six, "--against=ResNeXt")
    Path("there.csv").write_text("mine")
    assert "there.csv" in refused("table", one, "--csv=there.csv")
    assert Path("there.csv").read_text() == "mine"
    assert "(see wiring table --help)" in refused("table")


def test_a_network_of_others_is_not_built(make_run: MakeRun) -> None:
    run = make_run("own", 0.5)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["backbone"] = {"class_path": "nobody.Network", "init_args": {}}
    write(config, run / "config.yaml")
    said = wiring("table", str(run))
    assert said.code == 0
    assert "needs --trust" in said.err
    assert read(said.out)[0]["backbone, wiring, learner"] == "Network, MaskConnect"
