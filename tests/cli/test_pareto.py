"""`wiring pareto`, from the folders that `wiring fit` leaves."""

import csv
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

import wiring_lightning.plots
from tests.cli.commands import BASE, checkpoint_in, refused, succeed, write
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric
from wiring_lightning.checkpoints import load_checkpoint


def config(root: Path, seed: int, architecture: str = "search") -> dict[str, Any]:
    settings = deepcopy(BASE)
    settings["seed_everything"] = seed
    settings["model"]["init_args"]["backbone"] = {
        "class_path": "ConvFabric",
        "init_args": {"columns": 2, "channels": 4, "scales": 2, "in_channels": 1, "image_size": 8,
                      "architecture": architecture},
    }  # fmt: skip
    search = {"budget": 9000, "relative_penalty": 10.0, "lr": 1.0, "seed": seed}
    settings["trainer"] |= {
        "limit_train_batches": 3,
        "limit_test_batches": 1,
        "enable_progress_bar": False,
        "default_root_dir": str(root),
        "callbacks": [{"class_path": "BudgetedSearch", "init_args": search}],
    }
    if architecture != "search":
        settings["trainer"]["callbacks"] = []
    return settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("runs")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        for name, seed, architecture in (("one", 1, "search"), ("two", 2, "search"),
                                         ("whole", 3, "full")):  # fmt: skip
            folder = root / name
            folder.mkdir()
            written = write(config(folder, seed, architecture), folder / "written.yaml")
            succeed("fit", "--config", written)
            found[name] = folder / "lightning_logs" / "version_0"
        yield found


def trained(run: Path) -> ConvFabric:
    arguments = yaml.safe_load((run / "config.yaml").read_text())
    network = ConvFabric(**arguments["model"]["init_args"]["backbone"]["init_args"])
    state = load_checkpoint(checkpoint_in(run))["state_dict"]
    prefix = "backbone."
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state.items()
         if name.startswith(prefix)}
    )  # fmt: skip
    return network


def test_the_files_hold_costs_of_the_checkpoints(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    draw = wiring_lightning.plots.draw_pareto

    def keep(*arguments: Any, **settings: Any) -> Figure:
        titles.append(settings["title"])
        return draw(*arguments, **settings)

    monkeypatch.setattr(wiring_lightning.plots, "draw_pareto", keep)
    out = succeed("pareto", *map(str, runs.values()), "-o", "pictures/front.svg")
    assert titles == ["Digits"]
    assert "<svg" in Path("pictures/front.svg").read_text()
    with Path("pictures/front.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"one", "two", "whole"}
    for name, row in rows.items():
        assert int(row["multiply-adds"]) == int(costs.multiply_adds(trained(runs[name]).wiring()))
        assert 0 <= float(row["validation"]) <= 1
    assert rows["one"]["network"] == rows["two"]["network"] == "ConvFabric, searched"
    assert (rows["whole"]["network"], rows["whole"]["selected"]) == ("ConvFabric", "1")
    table = Path("pictures/front.md").read_text()
    assert out.startswith(table)
    selected = [row for row in rows.values() if row["selected"] == "1"]
    assert len(table.splitlines()) == 2 + len(selected)
    for row in selected:
        assert f"| {row['run']} | {int(row['multiply-adds']):,} | " in table
        assert f" | {100 * float(row['test']):.2f} |" in table


@pytest.mark.parametrize("name", ['say "one"', "a|b", "one, two"])
def test_a_folder_of_any_name_has_one_cell(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(runs["one"], tmp_path / name)
    out = succeed("pareto", str(copy), "-o", "any.png")
    assert f"| {name.replace('|', chr(92) + '|')} | " in out
    with Path("any.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["run"], row["network"], row["selected"]) == (name, "ConvFabric, searched", "1")


def test_other_data_are_refused_unless_told(runs: dict[str, Path], tmp_path: Path) -> None:
    folders = []
    for name in ("cats", "dogs"):
        folder = Path(shutil.copytree(runs["one"], tmp_path / name))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"] = {"class_path": "ImageFolder", "init_args": {"root": f"/pets/{name}"}}
        write(config, folder / "config.yaml")
        folders.append(str(folder))
    what = "The runs differ in data.root (/pets/cats and /pets/dogs)"
    assert f"{what}: give runs that agree, or --mix" in refused("pareto", *folders)
    assert "| ConvFabric, searched | cats |" in succeed("pareto", *folders, "--mix")


def test_other_costs_are_priced_and_named(runs: dict[str, Path]) -> None:
    out = succeed("pareto", str(runs["whole"]), "--cost", "sequential_steps", "--machines", "2")
    steps = int(costs.sequential_steps(trained(runs["whole"]).wiring(), machines=2))
    assert "| sequential steps on 2 machines |" in out
    assert f"| {steps} |" in out
    assert Path("pareto.png").read_bytes().startswith(b"\x89PNG")


def test_bad_requests_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    one = str(runs["one"])
    assert "is given 2 times" in refused("pareto", one, one)
    assert "--machines is for --cost sequential_steps" in refused("pareto", one, "--machines", "2")
    assert "--machines must be at least 1" in refused("pareto", one, "--machines", "0")
    assert "invalid choice: 'flops'" in refused("pareto", one, "--cost", "flops")
    assert "does not exist" in refused("pareto", str(tmp_path / "nothing"))
    assert "(see wiring pareto --help)" in refused("pareto")


def test_a_run_without_validation_is_named(runs: dict[str, Path], tmp_path: Path) -> None:
    written = write(config(tmp_path, 5), tmp_path / "written.yaml")
    succeed("fit", "--config", written, "--trainer.limit_val_batches", "0")
    assert "has no validation accuracy" in refused("pareto", str(tmp_path))


def test_help_explains_the_protocol() -> None:
    out = succeed("pareto", "--help")
    assert out.startswith("usage: wiring pareto")
    assert "which had no part in the choice" in out
