"""The file that `benchmarks.on_a_gpu` writes, again after each row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wiring_lightning.files import write_file


@dataclass
class Table:
    """A heading, a table and the sentences below it."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """In Markdown."""
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        return [
            f"## {self.title}",
            "",
            *text,
            *(line for note in self.notes for line in ("", note)),
        ]


class Report:
    """Tables in a file that is up to date after every row.

    Args:
        path: of the file.
        name: of the device.
        facts: on the machine, the command and the date.
    """

    def __init__(self, path: Path, name: str, facts: str) -> None:
        self.path = path
        self.state = "This run has not ended."
        self._head = [f"# On a GPU: {name}", "", facts]
        self._tables: list[Table] = []

    def table(self, title: str, *columns: str) -> Table:
        """Begin a table."""
        table = Table(title, columns)
        self._tables.append(table)
        return table

    def add(self, table: Table, *cells: object) -> None:
        """Add a row, print it and write the file."""
        table.rows.append([str(cell) for cell in cells])
        print("| " + " | ".join(map(_cell, table.rows[-1])) + " |", flush=True)
        self.write()

    def write(self) -> None:
        """Write the file."""
        parts = [*self._head, "", self.state]
        for table in self._tables:
            parts += ["", *table.lines()]
        write_file(self.path, ("\n".join(parts) + "\n").encode())


def file_name(device: str) -> str:
    """The name of the report on a device.

    Example:
        >>> file_name("NVIDIA H200")
        'gpu_nvidia_h200.md'
    """
    return f"gpu_{re.sub(r'[^a-z0-9]+', '_', device.lower()).strip('_')}.md"


def _cell(text: str) -> str:
    return text.replace("|", "/")
