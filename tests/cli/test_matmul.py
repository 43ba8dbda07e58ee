"""`--float32_matmul_precision`: what a run uses, what its config says, and what stays after it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator

from tests.cli.commands import BASE, refused, succeed, wiring, write
from wiring_lightning.cli.app import WiringCLI
from wiring_lightning.cli.matmul import matmul_precision, precision_for

SHORT = (
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=0",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_checkpointing=false",
    "--trainer.logger=false",
)


class PretendCUDA(CUDAAccelerator):
    """A CUDA accelerator for all who ask, on a CPU."""

    setup = CPUAccelerator.setup
    setup_device = CPUAccelerator.setup_device
    teardown = CPUAccelerator.teardown


class Seen(Callback):
    """Keeps the precision of the process at every training batch, and can fail there."""

    precisions: list[str] = []  # noqa: RUF012
    fails = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.precisions.append(torch.get_float32_matmul_precision())
        if self.fails:
            raise OSError("the disk is full")


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Seen, "precisions", [])
    yield
    assert torch.get_float32_matmul_precision() == "highest"


def config(path: Path, **changes: Any) -> str:
    callbacks = [*BASE["trainer"]["callbacks"], {"class_path": f"{__name__}.Seen"}]
    return write({**BASE, "trainer": {**BASE["trainer"], "callbacks": callbacks}, **changes}, path)


def saved(folder: Path) -> Any:
    (file,) = folder.rglob("config.yaml")
    return yaml.safe_load(file.read_text())["float32_matmul_precision"]


def test_it_is_what_the_argument_says(tmp_path: Path) -> None:
    file = config(tmp_path / "base.yaml", float32_matmul_precision="high")
    succeed("fit", f"--config={file}", "--float32_matmul_precision=medium", *SHORT)
    assert Seen.precisions == ["medium"]
    assert saved(tmp_path) == "medium"


def test_it_is_what_the_config_says(tmp_path: Path) -> None:
    file = config(tmp_path / "base.yaml", float32_matmul_precision="high")
    succeed("fit", f"--config={file}", *SHORT)
    assert Seen.precisions == ["high"]
    assert saved(tmp_path) == "high"


def test_on_a_cpu_it_stays_what_it_was(tmp_path: Path) -> None:
    succeed("fit", f"--config={config(tmp_path / 'base.yaml')}", *SHORT)
    assert Seen.precisions == ["highest"]
    assert saved(tmp_path) == "highest"


def test_on_cuda_it_is_high(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = WiringCLI.instantiate_trainer

    def on_cuda(commands: WiringCLI, **options: Any) -> Trainer:
        trainer = build(commands, **options)
        trainer.strategy.accelerator = PretendCUDA()
        return trainer

    monkeypatch.setattr(WiringCLI, "instantiate_trainer", on_cuda)
    succeed("fit", f"--config={config(tmp_path / 'base.yaml')}", *SHORT)
    assert Seen.precisions == ["high"]
    assert saved(tmp_path) == "high"


def test_it_is_set_back_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Seen, "fails", True)
    file = config(tmp_path / "base.yaml")
    run = wiring("fit", f"--config={file}", "--float32_matmul_precision=medium", *SHORT)
    assert run.code
    assert Seen.precisions == ["medium"]  # the fixture holds what is left


def test_other_words_are_refused(tmp_path: Path) -> None:
    file = config(tmp_path / "base.yaml")
    said = refused("fit", f"--config={file}", "--float32_matmul_precision=tf32")
    assert "float32_matmul_precision" in said
    assert "highest" in said


def test_inspect_needs_none(tmp_path: Path) -> None:
    file = config(tmp_path / "base.yaml", float32_matmul_precision="medium")
    for more in ([], ["--float32_matmul_precision=high"], ["--float32_matmul_precision", "high"]):
        assert "parameters" in succeed("inspect", f"--config={file}", *more)


def test_what_the_caller_has_set_is_no_default() -> None:
    assert precision_for(None, PretendCUDA()) == "high"
    assert precision_for("highest", PretendCUDA()) == "highest"
    with matmul_precision("medium"):
        assert precision_for(None, PretendCUDA()) == "medium"
        assert precision_for(None, CPUAccelerator()) == "medium"


def test_settings_of_single_backends_stay() -> None:
    """torch refuses to name one precision for them."""
    cuda = torch.backends.cuda.matmul
    before = cuda.fp32_precision
    cuda.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        assert precision_for(None, PretendCUDA()) is None
        with matmul_precision(None):
            assert cuda.fp32_precision == "tf32"
        with matmul_precision("highest"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert cuda.fp32_precision == "tf32"
    finally:
        cuda.fp32_precision = before
