"""A traceback is shown to those who ask for it, and for errors in the user's own code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from tests.bad_input.configs import backbone, config_with
from tests.cli.commands import wiring, write
from wiring_lightning.tasks import ClassificationTask


def test_the_traceback_is_there_for_those_who_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIRING_DEBUG", "1")
    file = write(config_with(backbone(num_classes=7)), tmp_path / "bad.yaml")
    with pytest.raises(MisconfigurationException, match="10 classes"):
        wiring("fit", "--config", file)


class Buggy(ClassificationTask):
    def training_step(self, *_: Any) -> Any:
        return torch.zeros(2) @ torch.zeros(3)


def test_an_error_in_the_users_code_keeps_its_traceback(tmp_path: Path) -> None:
    config = config_with()
    config["model"]["class_path"] = "tests.bad_input.test_tracebacks.Buggy"
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        wiring("fit", "--config", write(config, tmp_path / "buggy.yaml"))
