"""What a run of several processes says when one of them ends, and which of them says it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException

from wiring_lightning.cli.messages import note, one_sentence

ROOT = Path(__file__).parents[2]
LOST = (
    "another process of this run has ended; its own message says why, and --ckpt_path last goes on "
    "with a fit from its newest checkpoint\n"
)
GLOO = "[tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:25764. This is typically"


def said(error: Exception, capsys: Any) -> str:
    with pytest.raises(SystemExit), one_sentence():
        raise error
    return str(capsys.readouterr().err)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A group of processes that is there, as far as torch says."""

    def make(rank: int, size: int) -> None:
        answers = {"is_initialized": True, "get_rank": rank, "get_world_size": size}
        for name, answer in answers.items():
            monkeypatch.setattr(torch.distributed, name, lambda answer=answer: answer)

    return make


@pytest.mark.parametrize(
    "words",
    [
        GLOO,
        "[tcp/pair.cc:545] Read error [127.0.0.1]:54948: Connection reset by peer. This is",
        "NCCL error in: NCCLUtils.hpp:275, remote process exited or there was a network error",
        "ncclRemoteError: A call failed possibly due to a network error",
        "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown "
        "or crash?",
    ],
)
def test_what_libraries_say_of_a_lost_process_is_one_sentence(
    words: str, processes: Any, capsys: Any
) -> None:
    processes(rank=0, size=2)
    assert said(RuntimeError(words), capsys) == f"wiring: error: {LOST}"


def test_other_errors_with_these_words_are_told_as_they_are(processes: Any, capsys: Any) -> None:
    processes(rank=0, size=2)
    refused = said(ConnectionResetError(104, "Connection reset by peer"), capsys)  # of a download
    assert "Connection reset by peer" in refused
    processes(rank=0, size=1)
    with pytest.raises(RuntimeError, match=r"pair\.cc"), one_sentence():
        raise RuntimeError(GLOO)


@pytest.mark.parametrize(("rank", "prefix"), [(0, ""), (1, "[rank: 1] "), (12, "[rank: 12] ")])
def test_all_processes_but_the_first_say_which_they_are(
    rank: int, prefix: str, processes: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "7")  # on its machine
    processes(rank, size=16)
    assert said(MisconfigurationException("no."), capsys) == f"{prefix}wiring: error: no.\n"
    note("this")
    assert capsys.readouterr().err == f"{prefix}wiring: this\n"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_they_say_it_before_they_know_each_other(
    name: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "3")
    assert said(ValueError("no."), capsys) == "[rank: 3] wiring: error: no.\n"
    monkeypatch.setenv(name, "")
    assert said(ValueError("no."), capsys) == "wiring: error: no.\n"


PROGRAM = """
import os, sys
import torch
from wiring_lightning.cli.messages import one_sentence
with one_sentence():
    rank = int(sys.argv[1])
    torch.distributed.init_process_group(
        "gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2
    )
    torch.distributed.all_reduce(torch.ones(1))
    if rank == int(sys.argv[3]):
        os._exit(9)
    torch.distributed.all_reduce(torch.ones(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends", [0, 1])
def test_a_process_whose_partner_ends_says_so(ends: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started = []
    for rank in range(2):
        command = [sys.executable, str(program), str(rank), str(tmp_path / "store"), str(ends)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        one = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)
        started.append(one)
    try:
        errors = [one.communicate(timeout=60)[1] for one in started]
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [9 if rank == ends else 2 for rank in range(2)]
    stays = 1 - ends
    prefix = "[rank: 1] " if stays else ""
    assert errors[stays].splitlines(keepends=True)[-1] == f"{prefix}wiring: error: {LOST}"
