"""Private parts of other libraries that the package uses: all are listed, and their releases bound.

Private is what starts with an underscore and what lies in `torch.ops.aten`.
"""

import ast
import inspect
import re
import tomllib
from collections import namedtuple
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import wiring_lightning

_Named = namedtuple("_Named", [])  # its underscores are public
ROOT = Path(__file__).parents[1]
FILES = sorted(Path(wiring_lightning.__file__).parent.rglob("*.py"))
_ATEN = "torch.ops.aten."


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z]\w*", name)) and name not in dir(_Named)


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a file gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) == "self" else []


def used(tree: ast.AST) -> Iterator[str]:
    """Private names that a file asks other objects or modules for, or spells out as a string."""
    parts_of_texts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            if path.startswith(_ATEN):
                yield _ATEN + path.removeprefix(_ATEN).partition(".")[0]
            yield node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [alias.name for alias in node.names]
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if not module.startswith("wiring_lightning"):
                yield from (part for name in (module, *names) for part in name.split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            suffix = len(node.value) <= len("_orig")
            yield from [] if suffix or id(node) in parts_of_texts else [node.value]


def modules() -> Iterator[ModuleType]:
    """All modules, but those that need an extra which is not installed."""
    for module in walk_packages(wiring_lightning.__path__, "wiring_lightning."):
        try:
            yield import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise


def overridden() -> Iterator[str]:
    """Private methods of foreign classes that classes of the package replace."""
    for module in modules():
        for _, own in inspect.getmembers(module, inspect.isclass):
            if not own.__module__.startswith("wiring_lightning"):
                continue
            for name, value in vars(own).items():
                foreign = (
                    base
                    for base in own.__mro__
                    if not base.__module__.startswith("wiring_lightning")
                )
                if inspect.isfunction(value) and any(name in vars(base) for base in foreign):
                    yield name


def foreign_parts() -> set[str]:
    trees = [ast.parse(file.read_text()) for file in FILES]
    own = {name for tree in trees for name in defined(tree)} | {
        file.stem for file in FILES if file.stem.startswith("_")
    }
    names = {name for tree in trees for name in used(tree)} - own
    return {
        name for name in names | set(overridden()) if is_private(name) or name.startswith(_ATEN)
    }


def listed_parts() -> dict[str, str]:
    """The table of the architecture page: what is used, and of which library."""
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition("## Private parts that we use, and why")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([\w-]+) \| (.+) \|$", section, re.MULTILINE)
    assert all(len(why.split()) > 3 for _, _, why in rows)
    assert len({part for part, _, _ in rows}) == len(rows)
    return {part: library for part, library, _ in rows}


def test_the_search_finds_what_it_should() -> None:
    source = """
from lightning.fabric.utilities.optimizer import _optimizers_to_device
import torch._dynamo
class Own(nn.Module):
    def _mine(self):
        self._kept = torch._foreach_copy_(strategy._ddp_kwargs, getattr(module, "_hidden_part"))
        return self._kept, self._mine(), self._of_the_base, f"{self}_not_this"
        return torch.ops.aten.threshold_backward.grad_input
"""
    tree = ast.parse(source)
    found = {name for name in set(used(tree)) - set(defined(tree)) if is_private(name)}
    assert found == {
        "_optimizers_to_device", "_dynamo", "_foreach_copy_", "_ddp_kwargs", "_hidden_part",
        "_of_the_base",
    }  # fmt: skip
    assert "torch.ops.aten.threshold_backward" in set(used(tree))


def test_all_private_parts_are_listed() -> None:
    assert foreign_parts() == listed_parts().keys()


def test_libraries_whose_private_parts_are_used_have_an_upper_bound() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *chain.from_iterable(extras)]
    libraries = set(listed_parts().values())
    assert {"torch", "lightning", "jsonargparse"} <= libraries
    bounds = {re.match(r"[\w-]+", line)[0]: line for line in requirements}
    for library in libraries:
        assert re.search(r",<\d", bounds[library]), bounds[library]
