"""How the package is put together: what imports what, when, and under which names."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.cli.commands import ROOT
from tests.source import imported_names
from wiring_lightning.cli.commands import FILES

PACKAGE = ROOT / "wiring_lightning"


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
