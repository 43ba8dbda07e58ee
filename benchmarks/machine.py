"""Machine set-up of all benchmarks: an allocator that keeps memory, and the machine's name."""

import os
import platform
import sys
from pathlib import Path

import torch

# On Linux, glibc returns the memory of freed tensors to the system. The next tensor then costs a
# page fault per 4 KB: a third of a training step, and most of its noise.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}


def keep_freed_memory() -> None:
    """Restart this process with an allocator that keeps freed memory."""
    if sys.platform != "linux" or os.environ.items() >= _KEEP_MEMORY.items():
        return
    os.environ.update(_KEEP_MEMORY)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def describe(device: str, threads: int) -> str:
    """The processor or GPU, threads, and the version of torch."""
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [row for row in info.read_text().splitlines() if row.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {threads} threads, torch {torch.__version__}"


def synchronize(device: str) -> None:
    """Wait until the device has finished all its work."""
    if device != "cpu":
        torch.cuda.synchronize()
