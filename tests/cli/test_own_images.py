"""Pictures of one's own from the command line: train, then a table of what new pictures show."""

import csv
import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.commands import BASE, checkpoint_in, process, refused, succeed, wiring, write
from tests.data.image_folders import write_classes, write_image
from wiring_lightning.cli.export_images import run_images
from wiring_lightning.cli.runs import Run, find_run

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short run on 36 pictures, which are gone, and 7 new pictures."""
    folder = tmp_path_factory.mktemp("own")
    write_classes(folder / "own", dict.fromkeys(("ant", "bee", "cat"), 12), (10, 10))
    for number in range(7):
        write_image(folder / "photos" / f"{number}.png", (9, 14))
    config: dict[str, Any] = deepcopy(BASE)
    config["model"]["init_args"]["backbone"]["init_args"]["num_classes"] = 3
    data = {"root": str(folder / "own"), "image_size": 8, "grey": True, "batch_size": 8}
    config["data"] = {"class_path": "ImageFolder", "init_args": {**data, "num_workers": 0}}
    config["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(folder)}
    config["trainer"]["enable_progress_bar"] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        succeed("fit", "--config", write(config, folder / "own.yaml"))
    (folder / "own").rename(folder / "moved")
    return folder


def given(run: Path, *arguments: str, command: str = "predict") -> list[str]:
    checkpoint = checkpoint_in(run)
    config = checkpoint.parents[1] / "config.yaml"
    photos = f"--data.predict_root={run / 'photos'}"
    return [command, f"--config={config}", f"--ckpt_path={checkpoint}", photos, *arguments]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_fit_keeps_its_split_and_predict_names_files_and_classes(
    run: Path, tmp_path: Path
) -> None:
    assert (checkpoint_in(run).parents[1] / "split.csv").read_text().count(",train\n") == 30
    succeed(*given(run, f"--trainer.default_root_dir={tmp_path}"))
    (path,) = tmp_path.rglob("predictions.csv")
    rows = read(path)
    assert [row["file"] for row in rows] == [f"{number}.png" for number in range(7)]
    for row in rows:
        shares = {name: float(row[f"p_{name}"]) for name in ("ant", "bee", "cat")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(shares, key=shares.__getitem__)
    assert (path.parent / "predictions.pt").is_file()


def test_parquet_is_written_where_its_package_is(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    writer = ["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.path=mine.parquet"]
    succeed(*given(run, *writer))
    table = parquet.read_table("mine.parquet").to_pydict()
    assert table["file"] == [f"{number}.png" for number in range(7)]
    assert set(table["class"]) <= {"ant", "bee", "cat"}
    assert "mine.parquet is there already" in refused(*given(run, *writer))


def test_predict_says_in_one_sentence_what_is_wrong(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(*given(run, command="test")[:3])
    assert said.startswith(f"ImageFolder is not in '{run / 'own'}'")
    assert "no folder 'nowhere'" in refused(*given(run, "--data.predict_root=nowhere"))
    write_image(tmp_path / "photos" / "1.png", (9, 9))
    (tmp_path / "photos" / "2.png").write_bytes(b"no image")
    said = refused(*given(run, f"--data.predict_root={tmp_path / 'photos'}"))
    assert said.startswith(f"The image file '{tmp_path}/photos/2.png' cannot be read")
    names = '--data.class_names=["a", "b"]'
    assert "The data has 2 classes, but the backbone ends in 3" in refused(*given(run, names))
    names = '--data.class_names=["a", "b", "c"]'
    assert "The classes of the checkpoint are ant, bee, cat" in refused(*given(run, names))
    writer = ["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.path=mine.parquet"]
    monkeypatch.setattr("wiring_lightning.callbacks._prediction_table.find_spec", lambda _: None)
    assert "pip install 'wiring_lightning[tables]'" in refused(*given(run, *writer))
    writer[-1] = "--trainer.callbacks.path=mine.csv"
    digits = write({**BASE, "ckpt_path": None}, tmp_path / "digits.yaml")
    assert "the images of Digits have no names" in refused("predict", "--config", digits, *writer)


def test_a_run_that_resumes_needs_the_pictures_of_its_split(run: Path, tmp_path: Path) -> None:
    own = write_classes(tmp_path / "own", dict.fromkeys(("ant", "bee", "cat"), 11), (10, 10))
    run_again = given(run, f"--data.root={own}", f"--trainer.default_root_dir={tmp_path}")
    said = refused("fit", *run_again[1:3], *run_again[4:])
    assert said.startswith("The split of the checkpoint names '")
    assert "11.png' in line " in said
    (tmp_path / "moved").symlink_to(run / "moved")
    assert wiring("test", *run_again[1:3], f"--data.root={tmp_path / 'moved'}").code == 0


# Each rank runs all of it.
SEVERAL = """
import json, sys
from wiring_lightning.cli import main
for command in json.loads(sys.argv[1]):
    main(command)
"""
LIMITS: dict[str, tuple[list[str], int]] = {
    "all": ([], 7),
    "one batch": (["--trainer.limit_predict_batches=1"], 4),
}


def predict(run: Path, ranks: int, name: str, folder: Path) -> list[str]:
    """The command that writes the table of some pictures below a folder."""
    options = [f"--trainer.devices={ranks}", f"--data.batch_size={4 // ranks}", *LIMITS[name][0]]
    options += [f"--trainer.default_root_dir={folder / name}", "--trainer.logger=false"]
    options += ["--trainer.strategy=ddp"] if ranks == 2 else []
    return given(run, *options)


@pytest.mark.slow
def test_two_ranks_write_the_table_of_one(run: Path, tmp_path: Path) -> None:
    """The command line starts the second rank itself; the ranks have four and three pictures."""
    one, two = tmp_path / "one", tmp_path / "two"
    for name in LIMITS:
        succeed(*predict(run, 1, name, one))
    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    commands = json.dumps([predict(run, 2, name, two) for name in LIMITS])
    running = process(str(script), commands, folder=tmp_path)
    _, said = running.communicate()
    assert running.returncode == 0, said[-3000:]
    for name, (_, pictures) in LIMITS.items():
        tables = []
        for folder in (one / name, two / name):
            (path,) = folder.rglob("predictions*.csv")
            assert len(list(folder.rglob("predictions*.pt"))) == 1
            tables.append(read(path))
        assert [len(table) for table in tables] == [pictures, pictures]
        for first, second in zip(*tables, strict=True):
            assert first["file"] == second["file"]
            assert first["class"] == second["class"]
            for share in ("p_ant", "p_bee", "p_cat"):
                assert float(first[share]) == pytest.approx(float(second[share]), abs=1e-5)


def test_an_export_is_compared_on_the_test_pictures_of_the_run(run: Path, tmp_path: Path) -> None:
    found = find_run(checkpoint_in(run).parents[1])
    root = tmp_path / "more"
    shutil.copytree(run / "moved", root)
    config = deepcopy(dict(found.config))
    config["data"]["init_args"]["root"] = str(root)
    moved = Run(found.folder, config)
    before = run_images(moved)
    write_classes(root, dict.fromkeys(("ant", "bee", "cat"), 9), (10, 10), start=50)
    with pytest.warns(UserWarning, match="is kept, .* 27 picture"):
        assert torch.equal(run_images(moved), before)
