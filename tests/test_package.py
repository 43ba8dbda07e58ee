"""How the package is put together: what imports what, when, and under which names."""

import ast
import importlib
import sys
import tomllib
import warnings
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import wiring_lightning as wl
from tests.cli.commands import ROOT, process
from tests.source import imported_names
from wiring_lightning._names import MOVED, renamed_argument, renamed_attribute
from wiring_lightning.cli.commands import FILES

PACKAGE = ROOT / "wiring_lightning"
OLD_PATHS = {old: new for paths in MOVED.values() for old, new in paths.items()}


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in PACKAGE.rglob("*.py")}


# What imports what


def test_no_two_modules_import_each_other() -> None:
    """Neither directly nor through others, nor inside functions or for types only.

    The package itself is left out: it names everything, and imports nothing before it is used.
    """
    graph = {}
    for module, file in MODULES.items():
        names = set(imported_names(file))
        found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
        graph[module] = found & MODULES.keys() - {module, "wiring_lightning"}
    del graph["wiring_lightning"]
    dispatched = {f"wiring_lightning.cli.{name}" for name in ("app", *FILES)}
    graph["wiring_lightning.cli.commands"] |= dispatched  # it imports them by their names
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_few_files_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 4


def test_nothing_uses_an_old_path() -> None:
    folders = ("wiring_lightning", "tests", "benchmarks", "docs")
    files = {file for folder in folders for file in (ROOT / folder).rglob("*.py")}
    for file in files - {Path(__file__)}:
        for name in imported_names(file):
            assert not {name, name.rpartition(".")[0]} & OLD_PATHS.keys(), file


# When it is imported

HEAVY = {"torch", "numpy", "lightning", "matplotlib", "torchvision", "sklearn"}


def test_an_import_brings_only_what_it_needs(tmp_path: Path) -> None:
    """In one process, from the lightest part of the package to the heaviest.

    Lightning itself imports matplotlib and torchvision, so they are taken away after it.
    """
    code = f"""
import sys

def heavy():
    return {HEAVY} & sys.modules.keys()

import wiring_lightning, wiring_lightning.cli
assert not heavy(), heavy()
from wiring_lightning import wiring, functional, nn, costs, backbones, optim
assert heavy() == {{"torch", "numpy"}}, heavy()
import lightning.pytorch
for name in [*sys.modules, "matplotlib", "torchvision"]:
    if name.partition(".")[0] in ("matplotlib", "torchvision"):
        sys.modules[name] = None  # an import of it fails now
import wiring_lightning.callbacks, wiring_lightning.tasks
assert not {{"wiring_lightning.plots", "wiring_lightning.data"}} & sys.modules.keys()
"""
    running = process("-c", code, folder=tmp_path)
    _, err = running.communicate()
    assert running.returncode == 0, err


# Under which names


def test_the_front_door_is_complete() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("[a-z]*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("[a-z]*.py")}
    assert folders | files <= {*dir(wl)}
    assert dir(wl) == sorted(wl.__all__)
    for name in dir(wl):
        assert getattr(wl, name) is not None
    assert wl.callbacks.DNW.__name__ in dir(wl.callbacks)
    assert wl.Wiring is wl.wiring.Wiring
    with pytest.raises(AttributeError, match="'wiring_lightning' has no attribute 'Wirng'"):
        wl.Wirng  # noqa: B018


def test_the_names_of_the_command_line_are_where_they_were() -> None:
    names = ("WiringCLI", "WiringTrainer", "main", "run")
    assert dir(wl.cli) == sorted(names)
    for name in names:
        assert getattr(wl.cli, name).__name__ == name


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == (
        "wiring_lightning.__version__"
    )
    (value,) = (
        node.value
        for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    )
    assert ast.literal_eval(value) == wl.__version__  # setuptools reads a literal only


# Under old names


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Old paths are not imported yet, and will not stay imported."""

    def forget() -> None:
        for old in OLD_PATHS:
            parent, _, name = old.rpartition(".")
            if sys.modules.pop(old, None) is not None:
                vars(sys.modules[parent]).pop(name, None)

    forget()
    yield
    forget()


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("old", OLD_PATHS)
def test_an_old_path_is_the_new_module_and_warns(old: str) -> None:
    with pytest.warns(FutureWarning, match=f"{old} has moved to {OLD_PATHS[old]}; .* 0.2.0"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(OLD_PATHS[old])
    assert module.__name__ == OLD_PATHS[old]
    assert old not in MODULES
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert importlib.import_module(old) is module  # said once


@pytest.mark.usefixtures("forgotten")
def test_an_old_path_works_in_every_import_and_names_the_line(monkeypatch) -> None:
    monkeypatch.setitem(MOVED["0.2.0"], "wiring_lightning.nn.doors", "wiring_lightning.nn.gate")
    with warnings.catch_warnings(record=True, action="always") as said:
        from wiring_lightning.nn.doors import Gate
        from wiring_lightning.runs import Run
    assert Gate is wl.nn.Gate
    assert Run.__module__ == "wiring_lightning.cli.runs"
    assert [(w.category, w.filename) for w in said] == [(FutureWarning, __file__)] * 2
    del sys.modules["wiring_lightning.nn.doors"], wl.nn.doors


def test_versions_drop_their_old_paths() -> None:
    def number(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    assert all(number(version) > number(wl.__version__) for version in MOVED)


class Door:
    """A class whose argument and attribute have other names now."""

    @renamed_argument("leaves", "fan_in", gone_in="0.2.0")
    def __init__(self, fan_in: int = 1) -> None:
        self.fan_in = fan_in

    leaves = renamed_attribute("leaves", "fan_in", gone_in="0.2.0")


def test_an_old_argument_and_an_old_attribute_work_and_warn() -> None:
    with warnings.catch_warnings(record=True, action="always") as said:
        door = Door(leaves=2)
        assert door.leaves == door.fan_in == 2
        door.leaves = 3
    assert door.fan_in == 3
    assert [(w.category, w.filename) for w in said] == [(FutureWarning, __file__)] * 3
    text = "leaves{} is called fan_in now; the old name will go in version 0.2.0."
    assert [str(w.message) for w in said] == [
        "The argument " + text.format(" of Door"),
        *["The attribute " + text.format("")] * 2,
    ]
    with pytest.raises(TypeError, match="Door got 'fan_in' twice: 'leaves' is its old name"):
        Door(leaves=2, fan_in=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Door(fan_in=5).fan_in == 5
        assert Door(4).fan_in == 4
