"""C code that is compiled when it is first used."""

import ctypes
import shutil
import warnings
from pathlib import Path

import pytest

from wiring_lightning.functional import c_code, c_library

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler is called cc")


def source(folder: Path, text: str) -> Path:
    path = folder / "code.c"
    path.write_text(text, encoding="utf-8")
    return path


@needs_compiler
def test_a_library_is_compiled_once_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = source(tmp_path, "double half(double x) { return x / 2; }")
    library = c_library(path)
    assert library is not None
    library.half.restype, library.half.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.half(3.0) == 1.5
    path.unlink()
    assert c_library(path) is library
    assert not any((tmp_path / "temporary").iterdir())


@needs_compiler
def test_code_that_does_not_compile_is_said_once(tmp_path: Path) -> None:
    path = source(tmp_path, "int three(void) { return three_; }")
    with pytest.warns(UserWarning, match="code.c could not be compiled .* takes longer: .*three"):
        assert c_library(path) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert c_library(path) is None


def test_a_compiler_that_does_not_run_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\0")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.warns(UserWarning, match=f"could not be compiled with '{broken}'"):
        assert c_library(source(tmp_path, "int three(void) { return 3; }")) is None


@pytest.mark.parametrize("command", ["gcc'", "no-such-compiler -O2"])
@needs_compiler
def test_a_command_that_is_none_is_passed_over(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    assert c_library(source(tmp_path, "int three(void) { return 3; }")) is not None


@needs_compiler
def test_the_whole_command_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f"{wrapper} cc -DNUMBER=4")
    library = c_library(source(tmp_path, "int number(void) { return NUMBER; }"))
    assert library is not None
    assert library.number() == 4


def test_a_folder_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path, "int three(void) { return 3; }")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    monkeypatch.setattr(c_code, "_compiler", lambda: ["cc"])
    with pytest.warns(UserWarning, match="code.c could not be compiled with 'cc'.*No such file"):
        assert c_library(path) is None


def test_without_a_compiler_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_code.shutil, "which", lambda _name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert c_library(source(tmp_path, "int three(void) { return 3; }")) is None
