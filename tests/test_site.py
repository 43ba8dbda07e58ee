"""The documentation as a site: every page, every public name, nothing from elsewhere."""

import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import wiring_lightning

ROOT = Path(__file__).parents[1]

pytest.importorskip("mkdocs", reason="the site needs the extra docs: pip install -e '.[docs]'")
pytest.importorskip("griffe", reason="the site needs the extra docs: pip install -e '.[docs]'")
pytest.importorskip("latex2mathml", reason="the site needs the extra docs")

from docs.hooks import api, equations, notebooks, outside, pictures  # noqa: E402


def public_names() -> Iterator[str]:
    """Of every part of the package, as Python sees it."""
    for part in pkgutil.iter_modules(wiring_lightning.__path__):
        if not part.name.startswith("_"):
            module = importlib.import_module(f"wiring_lightning.{part.name}")
            own = [
                name
                for name, value in vars(module).items()
                if getattr(value, "__module__", None) == module.__name__ and name[0] != "_"
            ]
            yield from (f"{module.__name__}.{name}" for name in getattr(module, "__all__", own))


def test_the_api_pages_have_every_public_name_once() -> None:
    names = [
        name for text in api.pages().values() for name in re.findall(r"^::: (.+)$", text, re.M)
    ]
    assert len(names) > 150
    assert sorted(names) == sorted(public_names())


def test_links_of_the_repository_become_links_of_the_site() -> None:
    paths = outside.site_paths()
    text = "[a](../../results/dnw_step.md#b) ![b](../images/quickstart.png) [c](dnw_tables.md)"
    text += (
        " [d](#e) [f](../../configs/dnw) [g](../examples/own_project.py) [h](https://i.org/j.md)"
    )
    assert outside.turn_links(text, "docs/methods/dnw.md", paths, "https://r.org/") == (
        "[a](../results/dnw_step.md#b) ![b](../images/quickstart.png) [c](dnw_tables.md) [d](#e) "
        "[f](https://r.org/tree/main/configs/dnw) "
        "[g](https://r.org/blob/main/docs/examples/own_project.py) [h](https://i.org/j.md)"
    )
    code = "```python\nx = [a](../README.md)\n```\n"
    assert outside.turn_links(code + "[a](../README.md)", "docs/decisions.md", paths, "") == (
        code + "[a](index.md)"
    )


def test_names_become_links_outside_of_code_and_headings() -> None:
    text = (
        "# `nn.Gate`\n\n`nn.Gate` [`nn.Gate`](a.md) `torch.nn` `nn.Nosuch`\n\n```\n`nn.Gate`\n```\n"
    )
    linked = "[`nn.Gate`][wiring_lightning.nn.Gate]"
    assert api.link_names(text) == text.replace("\n`nn.Gate` ", f"\n{linked} ")


def test_a_notebook_is_a_page() -> None:
    cells = [("markdown", "# T\n\nText."), ("code", "a = 1\nb = 2"), ("markdown", "End.")]
    content = {"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}
    page = notebooks.page(content, "https://r.org/n.ipynb")
    assert page.startswith("# T\n\n*[This notebook](https://r.org/n.ipynb), ")
    assert page.endswith("Text.\n\n```python\na = 1\nb = 2\n```\n\nEnd.\n")


@pytest.mark.parametrize("path", [path for path in outside.site_paths() if path.endswith(".md")])
def test_lists_are_written_so_that_both_readers_of_markdown_nest_them(path: str) -> None:
    """The site's needs four spaces, and takes a wrapped line such as "32. It" for an item."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / path).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ {1,3}(?:[-*|]|\d+\.) .*", text, re.MULTILINE)
    assert not re.findall(r"\n\n {1,3}\S.*", text)


def test_an_equation_is_mathml() -> None:
    made = equations.equation(r"s_{ij} \leftarrow \frac{s_{ij}}{2}")
    assert "<mfrac>" in made
    assert made.count("<msub>") == 2


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_drawn_alike_twice(name: str) -> None:
    first, second = (pictures.PICTURES[name].draw() for _ in range(2))
    assert first.axes
    for one, other in zip(first.axes, second.axes, strict=True):
        assert len(one.get_children()) == len(other.get_children()) > 5
        assert [text.get_text() for text in one.texts] == [text.get_text() for text in other.texts]


class _Page(HTMLParser):
    """What a page loads, and the names of its places."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places.add(values.get("id", ""))
        if tag in {"script", "img", "iframe"} and "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in {"stylesheet", "icon", "preconnect"}:
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_built_whole_without_a_warning(site: Path) -> None:
    for path in outside.site_paths().values():
        assert (site / path).with_suffix(".html" if path.endswith(".md") else ".png").is_file(), (
            path
        )
    pages = [_Page(file) for file in (site / "api").glob("*.html")]
    assert set(public_names()) <= set.union(*(page.places for page in pages))
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = [(file, src) for file in site.rglob("*.html") for src in _Page(file).loaded]
    assert len(loaded) > 100
    for file, src in loaded:
        assert not re.match(r"(\w+:)?//", src), (file.name, src)
        if not src.startswith(("data:", "/")):
            assert (file.parent / src.partition("?")[0]).is_file(), (file.name, src)
