"""The script behind the oldest environment of `.ci/run` follows pyproject.toml."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / ".ci/oldest.py"))


@pytest.mark.parametrize(
    ("requirement", "constraint"),
    [
        ("torch>=2.11", "torch==2.11"),
        ("lightning >= 2.6.6, <2.7", "lightning==2.6.6"),
        ("jsonargparse[signatures]>=4.41,!=4.42,<5", "jsonargparse==4.41"),
    ],
)
def test_a_lower_bound_becomes_the_only_release(requirement: str, constraint: str) -> None:
    assert SCRIPT["oldest"](requirement) == constraint


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.11", "torch>2"])
def test_a_requirement_without_a_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match=f"'{requirement}' has no lower bound"):
        SCRIPT["oldest"](requirement)


def test_every_requirement_of_package_and_tests_is_there() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    names = [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"] + extras.pop("test")]
    found = [line.partition("==")[0] for line in SCRIPT["constraints"]()]
    assert names[-1] == "wiring_lightning"  # extras that the tests need; they come last
    assert found[: len(names) - 1] == names[:-1]
    others = {re.match(r"[\w.-]+", line)[0] for lines in extras.values() for line in lines}
    assert {"timm", "torch-pruning"} <= set(found[len(names) - 1 :]) <= others
    assert {"torch", "lightning", "pytest"} <= set(names)


def test_the_script_prints_what_pip_reads(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / ".ci/oldest.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == SCRIPT["constraints"]()
