"""The notebooks as pages: their text and their code, as they are in notebooks/."""

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook."""
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        address = f"{config.extra['repository']}/blob/main/notebooks/{notebook.name}"
        markdown = page(json.loads(notebook.read_text()), address)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=markdown))
    return files


def page(notebook: dict[str, Any], address: str) -> str:
    """The Markdown of a notebook, with the address of its file below the title.

    Example:
        >>> code = {"cell_type": "code", "source": ["a = 1"]}
        >>> text = {"cell_type": "markdown", "source": ["# Title"]}
        >>> print(page({"cells": [text, code]}, "https://example.org/n.ipynb"))
        # Title
        <BLANKLINE>
        *[This notebook](https://example.org/n.ipynb), without what it prints and draws.*
        <BLANKLINE>
        ```python
        a = 1
        ```
        <BLANKLINE>
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    title, _, rest = parts[0].partition("\n")
    said = f"*[This notebook]({address}), without what it prints and draws.*"
    parts[:1] = [title, said, *([rest.strip()] if rest.strip() else [])]
    return "\n\n".join(parts) + "\n"
