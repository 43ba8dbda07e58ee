"""Settings of every test: no window for pictures, one thread, one seed."""

import gc
import os
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import torch

os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that a test starts: every core has a test
torch.set_num_threads(1)
_patch = pytest.MonkeyPatch()
# Every trainer asks all installed packages for callbacks, which takes as long as some steps.
_patch.setattr(metadata, "entry_points", cache(metadata.entry_points))
# A seed for a device that is not there is kept with a text of the stack: longer than a small test.
for _device in (torch.cuda, torch.xpu, torch.mtia):
    if not _device.is_available():
        _patch.setattr(_device, "manual_seed_all", lambda seed: None)
gc.disable()  # collection makes objects that stay; see `pytest_collection_finish`


@pytest.fixture(autouse=True)
def fresh_torch() -> None:
    """One seed, and not the deterministic algorithms that an earlier trainer asked for."""
    torch.manual_seed(0)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder for tests of the command line, and the environment of a fresh process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what `seed_everything` leaves behind
    monkeypatch.delenv("WIRING_DEBUG", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no process waits for the other's last file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    folders = ("suites", "tests")
    items.sort(key=lambda i: (i.path.parent.name not in folders, i.path not in slow))


def pytest_collection_finish() -> None:
    """What exists by now stays to the end; the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.enable()
