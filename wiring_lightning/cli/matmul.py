"""How float32 matrix products are rounded while a command of the trainer runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from lightning.pytorch.accelerators import Accelerator, CUDAAccelerator

Precision = Literal["highest", "high", "medium"]

HELP = (
    "rounding of float32 matrix products, as in torch.set_float32_matmul_precision: highest keeps "
    "float32, high lets a GPU round the factors to TF32 (10 bits behind the point), which is "
    "faster on tensor cores, medium to bfloat16 (7 bits). null: high on a CUDA GPU, torch's own "
    "setting elsewhere. It does not concern convolutions, which use TF32 on CUDA in any case, and "
    "changes little under trainer.precision=bf16-mixed"
)


def precision_for(asked: Precision | None, accelerator: Accelerator) -> Precision | None:
    """The precision that a run uses: what was asked for, or a default for its device.

    Args:
        asked: the option; `None` if it was not given.
        accelerator: of the run's trainer.

    Returns:
        `None` if the process has set the precision of each backend by itself, which stays.
    """
    if asked is not None:
        return asked
    present = _present()
    untouched = present == "highest"  # torch's own; another was set by who called `main`
    return "high" if untouched and isinstance(accelerator, CUDAAccelerator) else present


@contextmanager
def matmul_precision(precision: Precision | None) -> Iterator[None]:
    """Set the precision of this process, and set it back afterwards.

    Args:
        precision: `None` changes nothing.

    Example:
        >>> with matmul_precision("medium"):
        ...     torch.get_float32_matmul_precision()
        'medium'
        >>> torch.get_float32_matmul_precision()
        'highest'
    """
    before = _present()
    if precision is None or precision == before:
        yield
        return
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    values = [backend.fp32_precision for backend in backends]
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for backend, value in zip(backends, values, strict=True):
            backend.fp32_precision = value


def _present() -> Precision | None:
    """The precision of this process; `None` if it was set for each backend, in another way."""
    try:
        return cast(Precision, torch.get_float32_matmul_precision())
    except RuntimeError:
        return None
