"""Files are whole or not there, nothing that was there is lost, and no folder is given twice."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from wiring_lightning.checkpoints import AtomicCheckpointIO, CheckpointError, load_checkpoint
from wiring_lightning.files import (
    check_outputs,
    check_writable,
    claim_version,
    free_path,
    picture_path,
    write_file,
    write_new_file,
)
from wiring_lightning.plots import save_figure


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_bytes", "replace", "fsync"])
def test_an_error_at_any_step_leaves_the_earlier_file(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    write_file(path, b"earlier")

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, fail)
        with pytest.raises(type(error)) as raised:
            write_file(path, b"later")
        if isinstance(error, OSError):
            assert raised.value.filename == str(path)
        with pytest.raises(type(error)):
            write_new_file(path, b"later")
    assert names(tmp_path) in (["table.csv"], ["table.csv", "table_1.csv"])
    assert path.read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("length", [1, 200, 250])
def test_names_of_any_length_can_be_written(length: int, tmp_path: Path) -> None:
    path = tmp_path / "folder" / ("n" * length)
    write_file(path, b"first")
    write_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(path.parent) == [path.name]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for name in ("folder", "fifo"):
        with pytest.raises(FileExistsError, match=f"{name} cannot be written: .* is no file"):
            write_file(tmp_path / name, b"")
    with pytest.raises(OSError, match="file"):
        write_file(tmp_path / "file" / "below", b"")
    assert names(tmp_path) == ["fifo", "file", "folder"]


def test_the_rights_are_those_of_any_file(tmp_path: Path) -> None:
    write_file(tmp_path / "ours", b"")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_new_name_is_never_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to("nowhere")
    assert free_path(tmp_path / "x.png").name == "x_1.png"
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(write_new_file, tmp_path / "y.pt", b"%d" % n) for n in range(24)]
    paths = [job.result() for job in jobs]
    assert len(set(paths)) == 24
    assert {path.read_bytes() for path in paths} == {b"%d" % n for n in range(24)}


def test_existing_files_are_refused(tmp_path: Path) -> None:
    check_outputs([tmp_path / "new"], "-o")
    (tmp_path / "broken link").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"is there already: .* with -o, or add --overwrite"):
        check_outputs([tmp_path / "new", tmp_path / "broken link"], "-o")


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf", ""])
def test_a_picture_replaces_another_one_when_it_is_complete(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{ending}"
    save_figure(Figure(), path)
    content = picture_path(path).read_bytes()
    with pytest.raises(ValueError, match="not supported"):
        save_figure(Figure(), tmp_path / "picture.docx")
    assert names(tmp_path) == [picture_path(path).name]
    assert len(content) > 100


# Several processes

FORK = get_context("fork")  # a process that has imported everything


def write_again_and_again(folder: Path, value: float, times: int) -> None:
    writer, content = AtomicCheckpointIO(), {"value": torch.full((200_000,), value)}
    for _ in range(times):
        writer.save_checkpoint(content, folder / "shared.ckpt")


def test_two_processes_may_write_the_same_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "shared.ckpt"
    running = [
        FORK.Process(target=write_again_and_again, args=(tmp_path, value, 40))
        for value in (1.0, 2.0)
    ]
    for one in running:
        one.start()
    seen = set()
    while any(one.is_alive() for one in running):
        if path.exists():
            value = load_checkpoint(path)["value"]
            assert value.unique().numel() == 1
            seen.add(float(value[0]))
    assert [one.exitcode for one in running] == [0, 0]
    assert seen <= {1.0, 2.0}
    assert names(tmp_path) == ["shared.ckpt"]


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_leaves_a_whole_file(seed: int, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"value": torch.zeros(9)}, tmp_path / "shared.ckpt")
    running = FORK.Process(target=write_again_and_again, args=(tmp_path, 1.0, 10**6))
    running.start()
    time.sleep(0.2 + random.Random(seed).random() / 10)
    running.kill()
    running.join()
    load_checkpoint(tmp_path / "shared.ckpt")
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["shared.ckpt"]


def claim_many(folder: Path, results: Any) -> None:
    results.put([claim_version(folder) for _ in range(50)])


def test_no_folder_is_given_twice(tmp_path: Path) -> None:
    runs, results = tmp_path / "runs", FORK.SimpleQueue()
    (runs / "version_3").mkdir(parents=True)
    (runs / "version_x").mkdir()
    assert claim_version(runs) == 4
    (runs / "version_5").touch()  # a file takes a name, too
    running = [FORK.Process(target=claim_many, args=(runs, results)) for _ in range(2)]
    for one in running:
        one.start()
    given = results.get() + results.get()
    for one in running:
        one.join()
    assert sorted(given) == list(range(6, 106))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 100 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_leaves_what_was_there(tiny_disk: Path) -> None:
    small, large = torch.zeros(10), torch.zeros(100_000)
    writer, path = AtomicCheckpointIO(), tiny_disk / "last.ckpt"
    writer.save_checkpoint({"value": small}, path)
    with pytest.raises(CheckpointError, match="No space left on device"):
        writer.save_checkpoint({"value": large}, path)
    with pytest.raises(OSError, match=r"No space left on device: .*table.csv"):
        write_file(tiny_disk / "table.csv", bytes(200_000))
    with pytest.raises(OSError, match=r"No space left on device: .*predictions.pt"):
        write_new_file(tiny_disk / "predictions.pt", bytes(200_000))
    assert names(tiny_disk) == ["last.ckpt"]
    assert torch.equal(load_checkpoint(path)["value"], small)


BAD_PLACES = {
    "below a file": ("taken/deeper/net.onnx", r"taken is no folder; name another place"),
    "a folder": ("folder", r"it is there, and is no file"),
    "below a link to nowhere": ("broken/net.onnx", r"broken is no folder"),
    "a long name": ("folder/" + "n" * 300, r"File name too long"),
    "a system's folder": ("/proc/no_folder/net.onnx", r"in /proc\); name another place"),
}


@pytest.mark.parametrize("name", BAD_PLACES)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path
) -> None:
    if name.startswith("a system") and not Path("/proc/self").exists():
        pytest.skip("no /proc")
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    place, said = BAD_PLACES[name]
    with pytest.raises(OSError, match=said) as caught:
        check_writable(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    with pytest.raises(OSError, match=r"."):
        write_file(tmp_path / place, b"x")  # it would have failed
    check_outputs([tmp_path / "new/deep/net.onnx", tmp_path / "net"], "-o")
    check_outputs([tmp_path / "taken"], "-o", overwrite=True)
    assert names(tmp_path) == before
    assert (tmp_path / "taken").read_bytes() == b"mine"
