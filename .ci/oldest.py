"""Prints the lower bounds of pyproject.toml as constraints for pip: the oldest allowed releases."""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def oldest(requirement: str) -> str:
    """The constraint that allows only the oldest release of a requirement.

    Raises:
        ValueError: if the requirement has no lower bound.

    Example:
        >>> oldest("jsonargparse[signatures]>=4.41,<5")
        'jsonargparse==4.41'
    """
    found = re.fullmatch(
        r"([\w.-]+)(\[.*\])?>=([\w.]+)(,[<!][\w.=]+)*", requirement.replace(" ", "")
    )
    if found is None:
        raise ValueError(f"the requirement {requirement!r} has no lower bound.")
    return f"{found[1]}=={found[3]}"


def constraints(pyproject: Path = PYPROJECT) -> list[str]:
    """The constraints for everything that the package and its tests need."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    needed = []
    for requirement in [*project["dependencies"], *extras["test"]]:
        own = re.fullmatch(project["name"] + r"\[([\w,]+)\]", requirement)
        needed += (
            [part for name in own[1].split(",") for part in extras[name]] if own else [requirement]
        )
    return [oldest(requirement) for requirement in needed]


if __name__ == "__main__":
    print("\n".join(constraints()))
