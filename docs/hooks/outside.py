"""Pages of the repository that are not in docs/, and links between all of them.

A link is written as the repository's page needs it. On the site it leads to the same page if the
site has it, and to the repository if not.
"""

import os.path
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)

# From a path in the repository to the path on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "results/README.md": "results/index.md",
}

_ALONE = {"index.md", "which_method.md"}  # sections of one page need no list of their pages


def site_paths(root: Path = ROOT) -> dict[str, str]:
    """Where pages and pictures of the repository are on the site, by their path in it."""
    paths = dict(OUTSIDE)
    for file in sorted((root / "results").iterdir()):
        if file.suffix in {".md", ".png"}:
            paths.setdefault(f"results/{file.name}", f"results/{file.name}")
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        paths[f"notebooks/{notebook.name}"] = f"notebooks/{notebook.stem}.md"
    for file in sorted((root / "docs").rglob("*")):
        if file.suffix in {".md", ".png"}:
            path = file.relative_to(root / "docs").as_posix()
            paths[f"docs/{path}"] = path
    return paths


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures outside of docs/; the notebooks have a hook of their own."""
    for path, place in site_paths().items():
        if not path.startswith(("docs/", "notebooks/")):
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page."""
    del files
    if page.file.src_uri in _ALONE:
        page.meta.setdefault("hide", ["navigation"])
    paths = site_paths()
    sources = {place: path for path, place in paths.items()}
    source = sources.get(page.file.src_uri)
    if source is None:  # a page that the build makes has links of the site
        return markdown
    return turn_links(markdown, source, paths, config.extra["repository"])


def turn_links(markdown: str, source: str, paths: dict[str, str], repository: str) -> str:
    """Turn links of the repository into links of the site; code blocks stay as they are.

    Args:
        markdown: the text of a page.
        source: the page's path in the repository.
        paths: what `site_paths` returns.
        repository: the address of the repository, for files that the site does not have.

    Example:
        >>> turn_links("[a](docs/a.md#b), [c](cli.py)", "README.md", {"README.md": "index.md",
        ...            "docs/a.md": "a.md"}, "https://example.org/r")
        '[a](a.md#b), [c](https://example.org/r/blob/main/cli.py)'
    """
    here = posixpath.dirname(paths[source])

    def turn(link: re.Match[str]) -> str:
        path, mark, anchor = link[0].partition("#")
        if not path or re.match(r"\w+:", path):
            return link[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target in paths:
            return os.path.relpath(paths[target], here or ".") + mark + anchor
        if (ROOT / target).exists():
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            return f"{repository.rstrip('/')}/{kind}/main/{target}{mark}{anchor}"
        return link[0]  # mkdocs says that it leads nowhere

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(turn, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(turn, markdown[end:])])
