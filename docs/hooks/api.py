"""The API pages: one for each floor, with every public name and its docstring.

mkdocs loads this file as a hook, and griffe, which reads the docstrings, as an extension.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typing_extensions import override

PACKAGE = Path(__file__).parents[2] / "wiring_lightning"
# A fenced block or a heading, in which nothing is changed; or the name of a part in backticks.
_NAME = re.compile(r"^ *```.*?^ *```$|^#.*?$|(?<!\[)`(\w+)\.(\w+)`", re.MULTILINE | re.DOTALL)


def floors(package: Path = PACKAGE) -> dict[str, Path]:
    """The public modules of the package, by name, with the file that lists their names."""
    found = {}
    for path in sorted(package.iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if not path.name.startswith("_") and file.suffix == ".py" and file.is_file():
            found[path.stem] = file
    return found


def public_names(file: Path) -> list[str]:
    """What `__all__` of a module lists, or without it the functions and classes without `_`.

    Example:
        >>> public_names(PACKAGE / "tasks" / "__init__.py")
        ['ClassificationTask', 'SegmentationTask', 'WiringComparison']
    """
    defined = []
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined.append(statement.name)
    return [name for name in defined if not name.startswith("_")]


def pages() -> dict[str, str]:
    """The Markdown of all API pages, by their path on the site."""
    made, rows = {}, []
    for floor, file in floors().items():
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        names = public_names(file)
        parts = [f"# {floor}", f"`wiring_lightning.{floor}`: {docstring}"]
        parts += [f"::: wiring_lightning.{floor}.{name}" for name in names]
        made[f"api/{floor}.md"] = "\n\n".join(parts) + "\n"
        links = ", ".join(f"[`{name}`][wiring_lightning.{floor}.{name}]" for name in names)
        rows.append(f"| [{floor}]({floor}.md) | {links} |")
    made["api/index.md"] = _START + "\n".join(rows) + "\n"
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, markdown in pages().items():
        files.append(File.generated(config, path, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link the names in a page of docs/ to their place on the API pages."""
    del config, files
    return markdown if page.file.src_uri.startswith("api/") else link_names(markdown)


class PackageDocstrings(griffe.Extension):
    """Links names in docstrings, and calls `Example:` what griffe reads as a doctest."""

    @override
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the text of a docstring, before it is parsed."""
        if obj.docstring is not None:
            text, heading, doctest = obj.docstring.value.partition("\nExample:\n")
            obj.docstring.value = (
                link_names(text) + heading.replace("Example", "Examples") + doctest
            )


def link_names(markdown: str) -> str:
    """Make a link of every name such as `nn.Gate` in backticks.

    Example:
        >>> link_names("`nn.Gate` is one, `nn.Linear` is not.")
        '[`nn.Gate`][wiring_lightning.nn.Gate] is one, `nn.Linear` is not.'
    """

    def link(span: re.Match[str]) -> str:
        if span[2] in _names_by_floor().get(span[1] or "", ()):
            return f"[{span[0]}][wiring_lightning.{span[1]}.{span[2]}]"
        return span[0]

    return _NAME.sub(link, markdown)


@cache
def _names_by_floor() -> dict[str, list[str]]:
    return {floor: public_names(file) for floor, file in floors().items()}


_START = """# API

Every public name, with its docstring. After `import wiring_lightning as wl` they are
`wl.backbones.ResNeXt` and so on; each part is imported when it is first used. The [architecture
page](../architecture.md#the-floors) says what lives where.

| part | names |
| --- | --- |
"""
