"""What the source of the package says, without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path


def imported_names(file: Path) -> Iterator[str]:
    """Every module or name of a module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
