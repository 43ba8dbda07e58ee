"""The cases are many, differ, are the same every time, and are judged strictly."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.bad_input.generated.case
from tests.bad_input.draws import draws
from tests.bad_input.generated import test_command_lines, test_configs
from tests.bad_input.generated.case import Case, Make, complaint, make_cases
from tests.bad_input.generated.command_lines import command_lines
from tests.bad_input.generated.configs import spoilt_files, spoilt_values
from tests.bad_input.generated.runs import spoilt_runs
from tests.cli.commands import Run


@pytest.mark.parametrize("make", [spoilt_values, spoilt_files, command_lines, spoilt_runs])
def test_cases_are_the_same_every_time(make: Make) -> None:
    cases = make_cases(make, 60, 5)
    make_cases.cache_clear()
    assert cases[:40] == make_cases(make, 40, 5)
    assert cases != make_cases(make, 60, 6)
    assert len({(*case.arguments, *sorted(case.files.items())) for case in cases}) == 60


def test_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {(batch.make, batch.count) for batch in [*test_configs.BATCHES,
                                                     *test_command_lines.BATCHES]}  # fmt: skip
    assert sum(count for _, count in kinds) >= 400
    monkeypatch.setenv("WIRING_DRAWS", "5")
    assert draws(300) == 1500


def ends(code: int, err: str) -> Callable[..., Run]:
    return lambda *_: Run(code, "", err)


def raises(error: BaseException) -> Callable[..., Run]:
    def run(*_: str) -> Run:
        raise error

    return run


GOOD = "wiring: error: there is no subcommand 'x' (see wiring --help)\n"
ENDS: dict[str, tuple[Callable[..., Run], str | None]] = {
    "well": (ends(0, "a warning\n"), None),
    "in a sentence": (ends(2, f"a warning\n{GOOD}"), None),
    "in a traceback": (raises(KeyError("x")), "raises KeyError"),
    "in a traceback on stderr": (
        ends(0, "Traceback (most recent call last)"),
        "writes a traceback",
    ),
    "in another code": (ends(1, GOOD), "exit code 1"),
    "in silence": (ends(2, ""), "does not end in one sentence"),
    "in two sentences": (ends(2, GOOD + GOOD), "does not end in one sentence"),
    "in words of argparse": (ends(2, f"usage: wiring\n{GOOD}"), "one short sentence"),
    "in a long sentence": (ends(2, GOOD[:-1] + "x" * 400), "one short sentence"),
    "in a short one": (ends(2, "wiring: error: x\n"), "one short sentence"),
    "in something after the sentence": (ends(2, f"{GOOD}more\n"), "does not end in one sentence"),
    "in the last net": (ends(2, f"{GOOD[:-1]}; WIRING_DEBUG=1\n"), "no sentence of its own"),
    "in an exit": (raises(SystemExit(3)), "raises SystemExit"),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_a_case_may_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, expected = ENDS[name]
    monkeypatch.setattr(tests.bad_input.generated.case, "wiring", run)
    said = complaint(Case("x", ["fit"], {"a/b.yaml": b"1"}), tmp_path / "case")
    assert (said is None) == (expected is None)
    assert expected is None or expected in (said or "")


def test_a_case_that_runs_something_or_hangs_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(*_: str) -> Run:
        Path("ran_something").touch()
        return Run(0, "", "")

    def hangs(*_: str) -> Run:
        while True:
            try:
                sys.stderr.flush()
            except Exception:
                continue

    module = tests.bad_input.generated.case
    monkeypatch.setattr(module, "wiring", runs)
    assert "runs a command" in (complaint(Case("x", ["fit"]), tmp_path / "one") or "")
    monkeypatch.setattr(module, "wiring", hangs)
    monkeypatch.setattr(module, "SECONDS", 1)
    assert "takes more than 1 seconds" in (complaint(Case("x", ["fit"]), tmp_path / "two") or "")
