"""What YAML allows and nobody means is refused, with file, key and line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.bad_input.configs import config_with
from tests.cli.commands import refused, succeed, write
from wiring_lightning.cli.yaml_text import check_yaml

GOOD = yaml.safe_dump(config_with(), sort_keys=False)


def after(key: str, line: str) -> Callable[[], bytes]:
    """The config with one more line behind that of a key, indented like it."""

    def text() -> bytes:
        lines = GOOD.splitlines()
        at = next(number for number, line in enumerate(lines) if line.strip().startswith(key))
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        lines.insert(at + 1, indent + line)
        return "\n".join(lines).encode()

    return text


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_FILES: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "a key of the trainer twice": (
        after("max_epochs:", "max_epochs: 300"),
        ["the key 'max_epochs' is given twice, first in line", "remove one"],
    ),
    "a key of the backbone twice": (after("depth:", "depth: 20"), ["the key 'depth'", "twice"]),
    "a section twice": (lambda: (GOOD + "data: {}\n").encode(), ["the key 'data'", "twice"]),
    "a key of a callback twice": (after("lr:", "lr: 3"), ["the key 'lr' is given twice"]),
    "a key twice on one line": (
        lambda: b"model: {class_path: A, class_path: B}",
        ["line 1: the key 'class_path' is given twice, first in line 1"],
    ),
    "an alias of itself": (
        lambda: b"x: &x [*x]\n",
        ["an alias stands for a value that it is part"],
    ),
    "aliases that multiply": (lambda: BOMB.encode(), ["more than 100,000 values"]),
    "deep brackets": (lambda: b"x: " + b"[" * 200 + b"]" * 200, ["nested more than 100 deep"]),
    "deeper brackets": (lambda: b"x: " + b"[" * 5000 + b"]" * 5000, ["nest"]),
    "an alias of nothing": (lambda: b"x: *y\n", ["undefined alias"]),
    "a tag that runs": (
        lambda: b"x: !!python/object/apply:os.system ['touch it_ran']\n",
        ["could not determine a constructor", "os.system"],
    ),
    "nothing": (lambda: b"", ["bad.yaml is empty: write a config into it"]),
    "a comment alone": (lambda: b"# to do\n", ["bad.yaml is empty"]),
    "nothing but marks": (lambda: b"---\n...\n", ["bad.yaml is empty"]),
    "no end": (lambda: b"model: [\n", ["Problems parsing config"]),
    "a tab": (lambda: b"model:\n\tclass_path: x\n", ["Problems parsing config"]),
    "UTF-16": (lambda: GOOD.encode("utf-16"), ["is no text in UTF-8", "byte 0"]),
    "Latin 1": (lambda: b"# caf\xe9\n" + GOOD.encode(), ["is no text in UTF-8"]),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n\x00\x00", ["is no text in UTF-8"]),
    "NUL": (lambda: GOOD.encode() + b"\x00", ["Problems parsing config"]),
    "two documents": (lambda: f"{GOOD}---\n{GOOD}".encode(), ["Problems parsing config"]),
    "a list": (lambda: b"- 1\n- 2\n", ["Unexpected config"]),
    "a word": (lambda: b"words\n", ["Unexpected config"]),
    "large": (lambda: b"#" * 11_000_000, ["less than 10 MB"]),
}


@pytest.mark.parametrize("subcommand", ["fit", "inspect"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_config_is_refused(name: str, subcommand: str, tmp_path: Path) -> None:
    make, expected = BAD_FILES[name]
    (tmp_path / "bad.yaml").write_bytes(make())
    said = refused(subcommand, "--config", "bad.yaml")
    for part in expected:
        assert part in said
    assert "bad.yaml" in said or "Unexpected config" in said
    assert not Path("it_ran").exists()


def test_the_line_is_that_of_the_second_key(tmp_path: Path) -> None:
    content = after("max_epochs:", "max_epochs: 300")().decode()
    (tmp_path / "bad.yaml").write_text(content)
    first, second = (number for number, line in enumerate(content.splitlines(), start=1)
                     if "max_epochs" in line)  # fmt: skip
    said = refused("fit", "--config", "bad.yaml")
    assert f"line {second}: the key 'max_epochs' is given twice, first in line {first}" in said


def test_a_key_twice_on_the_command_line_is_refused(tmp_path: Path) -> None:
    file = write(config_with(), tmp_path / "good.yaml")
    said = refused("fit", "--config", file, "--model.optimizer={class_path: SGD, class_path: Adam}")
    assert "model.optimizer" in said


@pytest.mark.parametrize("name", ["config.yaml", "other"])
def test_the_config_of_a_run_is_read_as_carefully(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "version_0"
    folder.mkdir()
    (folder / "config.yaml").write_bytes(after("depth:", "depth: 20")())
    said = refused("figure", "active", "version_0")
    assert "the key 'depth' is given twice" in said
    assert "version_0/config.yaml" in said


def test_aliases_merges_and_a_byte_order_mark_stay_allowed(tmp_path: Path) -> None:
    phases = "&p {epochs: 1, lr: 0.1}"
    text = GOOD.replace("lr: 0.5", "lr: &rate 0.5\n      low: 0.0").encode()
    (tmp_path / "good.yaml").write_bytes(b"\xef\xbb\xbf" + text)
    succeed("fit", "--config", "good.yaml", "--print_config")
    check_yaml(f"a: {phases}\nb: {{<<: *p, lr: 0.2}}\nc: [*p, *p]\n")


@pytest.mark.parametrize("kind", ["folder", "missing", "device", "empty"])
def test_what_is_no_file_is_named(kind: str, tmp_path: Path) -> None:
    path = {"folder": ".", "missing": "nowhere.yaml", "device": "/dev/zero", "empty": "empty.yaml"}[
        kind
    ]
    (tmp_path / "empty.yaml").touch()
    if kind == "device" and not os.path.exists(path):  # noqa: PTH110
        pytest.skip("no such device here")
    said = refused("fit", "--config", path)
    assert path in said or kind == "empty"
