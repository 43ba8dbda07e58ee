"""A command that would replace a file refuses, unless it is told to."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Trained, refused, succeed, wiring
from tests.cli.test_found import SEARCH, write

MINE = b"mine"

# What a command writes, and the files that must not be there.
TARGETS: list[tuple[list[str], list[str]]] = [
    (["inspect", "--figure=pictures/mine.svg"], ["pictures/mine.svg"]),
    (["inspect", "--figure=mine"], ["mine.png"]),
    (["inspect", "--found=found"], ["found/config.yaml", "found/network.ckpt"]),
    (["figure", "active", "-o", "mine.pdf"], ["mine.pdf"]),
    (["pareto", "-o", "mine.svg"], ["mine.svg", "mine.md", "mine.csv"]),
]


def complete(command: list[str], trained: Trained) -> list[str]:
    """The command with the run or the network that it needs."""
    if command[0] != "inspect":
        first = 2 if command[0] == "figure" else 1
        return [*command[:first], str(trained.folder), *command[first:]]
    if "--found" not in command[1]:
        return [*command, "--config", trained.config]
    return [*command, "--config", write(SEARCH, Path("search.yaml"))]


@pytest.mark.parametrize(("command", "taken"), [(command, names[-1]) for command, names in TARGETS])
def test_a_file_is_not_replaced_unasked(command: list[str], taken: str, trained: Trained) -> None:
    path = Path(taken)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MINE)
    given = complete(command, trained)
    before = sorted(Path().rglob("*"))
    said = refused(*given)
    option = command[1].partition("=")[0] if command[0] == "inspect" else "-o"
    assert f"{taken} is there already: name another place with {option}, or add" in said
    assert path.read_bytes() == MINE
    assert sorted(Path().rglob("*")) == before
    succeed(*given, "--overwrite")
    assert path.read_bytes() != MINE


@pytest.mark.parametrize(
    "command",
    [
        ["figure", "scaling", "-o"],
        ["figure", "active", "RUN", "--output"],
        ["pareto", "RUN", "-o"],
        ["table", "RUN", "--csv=table.csv", "--picture"],
        ["inspect", "--config=CONFIG", "--figure"],
    ],
)
@pytest.mark.parametrize("name", ["depth.xyz", "depth.gif", "new folder/depth.md"])
def test_a_picture_that_cannot_be_is_refused_before_the_work(
    command: list[str], name: str, trained: Trained
) -> None:
    places = {"RUN": str(trained.folder), "--config=CONFIG": f"--config={trained.config}"}
    done = wiring(*(places.get(word, word) for word in command), name)
    said = f"{name} is no name of a picture: give "
    assert said in done.err
    assert done.err.endswith("a file that ends in .png, .pdf or .svg.\n")
    assert done.code == 2
    assert done.out == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("kind", ["active", "pareto"])
def test_without_a_name_a_command_finds_a_free_one(kind: str, trained: Trained) -> None:
    command = [kind] if kind == "pareto" else ["figure", kind]
    Path(f"{kind}.png").write_bytes(MINE)
    for name in (f"{kind}_1.png", f"{kind}_2.png"):
        assert name in succeed(*command, str(trained.folder))
    assert sorted(path.name for path in Path().glob("*.png")) == [
        f"{kind}.png", f"{kind}_1.png", f"{kind}_2.png"
    ]  # fmt: skip
    assert Path(f"{kind}.png").read_bytes() == MINE


def sentence(*command: str) -> str:
    """What a command says that fails when it writes; a report may be there already."""
    run = wiring(*command)
    assert run.code == 2, run.err
    assert run.err.count("wiring: error: ") == 1
    return run.err.splitlines()[-1]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_never_replaced(make: Any, trained: Trained) -> None:
    make(Path("it.png"))
    kind = Path("it.png").stat().st_mode
    said = sentence("inspect", "--figure=it.png", "--config", trained.config, "--overwrite")
    assert "it.png cannot be written: it is there, and is no file" in said
    assert Path("it.png").stat().st_mode == kind


def broken(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("command", "names"), TARGETS)
def test_a_full_disk_leaves_what_was_there(
    command: list[str], names: list[str], trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(MINE)
    given = complete(command, trained)
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(Path, "write_bytes", broken)
    said = sentence(*given, "--overwrite")
    assert "No space left on device" in said
    assert ".unfinished" not in said
    assert sorted(Path().rglob("*")) == before
    assert all(Path(name).read_bytes() == MINE for name in names)
