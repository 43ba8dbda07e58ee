"""The documentation runs, links to files that exist, and names what the code has."""

import importlib
import json
import logging
import re
import runpy
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer

from tests.source import imported_names
from wiring_lightning.cli.commands import SUBCOMMANDS, main
from wiring_lightning.cli.report import summarize

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wiring_lightning"
FLOORS = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")} - {"py"}
PAGES = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture(autouse=True)
def leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, and undo what examples set for the whole process."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few batches of every epoch, which are enough to run all of the code."""
    fit = Trainer.fit

    def fit_shortly(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        trainer.limit_train_batches, trainer.limit_val_batches = 4, 2
        fit(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", fit_shortly)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def test_the_rules_of_the_papers_are_where_the_page_says() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().split("## Where each rule is")[1]
    places = re.findall(r"^\| [^|`].* \| `([\w/]+)\.py:([\w.]+)` \|$", table, re.MULTILINE)
    assert len(places) >= 15
    for file, name in places:
        found = importlib.import_module(f"wiring_lightning.{file.replace('/', '.')}")
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
        assert found.__module__ == f"wiring_lightning.{file.replace('/', '.')}"  # not only imported


# What runs


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(file, marks=[pytest.mark.slow] if "timm" in file.stem else [], id=file.stem)
        for file in EXAMPLES
    ],
)
@pytest.mark.usefixtures("short_fits")
def test_example_runs(example: Path) -> None:
    if "import timm" in example.read_text():
        pytest.importorskip("timm")
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[pytest.mark.slow] if p.stem == "export" else []) for p in PAGES],
    ids=lambda page: page.stem,
)
@pytest.mark.usefixtures("short_fits")
def test_python_in_a_page_runs(page: Path) -> None:
    """Apart from what is a copy of a file that runs elsewhere."""
    files = [example.read_text() for example in EXAMPLES]
    files.append((ROOT / "tests" / "methods.py").read_text())
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        if not any(block.strip() in text for text in files):
            exec(compile(block, str(page), "exec"), names)


@pages
def test_config_in_a_page_is_complete(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "config.yaml").write_text(block)
        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", str(tmp_path / "config.yaml"), "--print_config"])
        assert end.value.code == 0


# What is a copy


@pytest.mark.parametrize(
    ("page", "example"), [("README.md", "own_project"), ("docs/extending.md", "own_backbone")]
)
def test_page_shows_the_example_word_for_word(page: str, example: str) -> None:
    assert (ROOT / f"docs/examples/{example}.py").read_text() in blocks(ROOT / page, "python")


def test_readme_shows_the_keys_of_inspect() -> None:
    from wiring_lightning.backbones import ResNeXt

    config = yaml.safe_load((ROOT / "configs" / "digits_resnext.yaml").read_text())
    backbone = config["model"]["init_args"]["backbone"]["init_args"]
    (shown,) = (json.loads(block) for block in blocks(ROOT / "README.md", "json"))
    expected = summarize(ResNeXt(**backbone).wiring())
    assert list(shown) == list(expected)
    for key in shown:
        assert list(shown[key]) == list(expected[key])


def test_readme_starts_with_the_two_commands_of_ci() -> None:
    fit, test = blocks(ROOT / "README.md", "bash")[:2]
    assert fit == "pip install -e . && wiring fit --config configs/quickstart.yaml\n"
    assert test == "pip install -e '.[test]' && pytest\n"
    assert test in (ROOT / ".ci" / "run").read_text()


def test_floors_import_what_the_architecture_page_says() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## The floors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (.*) ?\|$", section, re.M)
    documented = {name.removesuffix(".py"): set(re.findall(r"`(\w+)`", row)) for name, row in rows}
    above: set[str] = set()
    for floor, imports in documented.items():
        assert imports <= above, floor
        above.add(floor)
    assert set(documented) == FLOORS
    for floor, imports in documented.items():
        folder = PACKAGE / floor
        files = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        used = {name for file in files for name in _floors_imported_by(file)}
        assert used - {floor} == imports, floor


def _floors_imported_by(file: Path) -> Iterator[str]:
    for name in imported_names(file):
        package, _, rest = name.partition(".")
        floor = rest.partition(".")[0]
        if package == "wiring_lightning" and not floor.startswith("_"):
            yield floor  # the package itself is none


# What is written


@pages
def test_tables_have_rows_as_wide_as_their_head(page: Path) -> None:
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"\|( *:?-+:? *\|)+", line):
            table = [lines[number - 1], *takewhile(lambda row: row.startswith("|"), lines[number:])]
            assert len(table) > 2, f"{page.name}:{number}: a table without rows"
            widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
            assert len(widths) == 1, f"{page.name}:{number}: rows of {sorted(widths)} bars"


# What is named


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in [_slug(heading) for heading in headings], target


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pages
def test_commands_exist(page: Path) -> None:
    for code in [*code_spans(page), *blocks(page, "bash")]:
        for command in re.findall(r"\bwiring ([a-z]+)", code):
            assert command in SUBCOMMANDS
        for config in re.findall(r"--config (\S+)", code):
            assert config == "FILE" or (ROOT / config).is_file()


LIBRARIES = (
    "builtins",
    "torch.nn",
    "torch.optim.lr_scheduler",
    "torch.utils.data",
    "lightning.pytorch",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
)
METRICS = ("search/", "wiring/", "weights/", "train/", "val/", "test/")


@pages
def test_names_exist(page: Path) -> None:
    floors = [importlib.import_module(f"wiring_lightning.{floor}") for floor in FLOORS]
    public = [*floors, *map(importlib.import_module, LIBRARIES)]
    for span in code_spans(page):
        name = span.partition("(")[0]
        if re.fullmatch(r"[\w./-]+\.(py|yaml|md|ipynb)|[\w.]+(/[\w.]+)+/?", name):
            roots = (ROOT, PACKAGE)
            known = any((root / name).exists() for root in roots) or name.startswith(METRICS)
            assert known, name
        elif re.fullmatch(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*", name):
            assert any(hasattr(module, name) for module in public), name
        elif name.partition(".")[0] in FLOORS and re.fullmatch(r"\w+(\.\w+)+", name):
            assert _resolves(f"wiring_lightning.{name}"), name


def _resolves(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        parent, _, owner = module.rpartition(".")
        return hasattr(getattr(importlib.import_module(parent), owner, None), name)


def test_promises_name_tests_that_exist() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    promises = re.findall(r"^- .*?(?=^- |^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert promises
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert tests, promise
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(), name


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        for extra in re.findall(r"'\.\[(\w+)\]'", page.read_text()):
            assert extra in project["optional-dependencies"]


TEMPLATE = """
## How to use it
### In Lightning
### On the command line
### In plain PyTorch
### What to watch in TensorBoard
## Suggested settings
## What was measured
## Technical details
## Limits
## Credit
"""


@pytest.mark.parametrize("method", ["mask_connect", "dnw", "sparsenet", "bsn"])
def test_a_page_of_a_method_follows_the_template(method: str) -> None:
    page = ROOT / "docs" / "methods" / f"{method}.md"
    headings = re.findall(r"^#{2,3} .+$", prose(page), re.MULTILINE)
    wanted = TEMPLATE.strip().splitlines()
    assert [heading for heading in headings if heading in wanted] == wanted
    assert [heading for heading in headings if heading.startswith("## ")] == [
        heading for heading in wanted if heading.startswith("## ")
    ]
    details = page.read_text().partition("## Technical details")[2]
    assert "```math\n" in details
    use = page.read_text().partition("## Suggested settings")[0]
    for language in ("python", "yaml", "bash"):
        assert f"```{language}\n" in use


SHORT_TEMPLATE = """
## How to use it
### In Lightning
### On the command line
## The rule
## Suggested settings
## Technical details
## Limits
## Credit
"""


@pytest.mark.parametrize("method", ["sparse_training", "rigl", "pruning", "acdc", "n_of_m"])
def test_a_page_of_sparse_training_follows_its_template(method: str) -> None:
    page = ROOT / "docs" / "methods" / f"{method}.md"
    headings = re.findall(r"^#{2,3} .+$", prose(page), re.MULTILINE)
    wanted = SHORT_TEMPLATE.strip().splitlines()
    assert [heading for heading in headings if heading in wanted] == wanted
    assert [heading for heading in headings if heading.startswith("## ")] == [
        heading for heading in wanted if heading.startswith("## ")
    ]
    assert "```python\n" in page.read_text()
    assert "```yaml\n" in page.read_text()
    assert ("```math\n" in page.read_text()) == (method != "sparse_training")
