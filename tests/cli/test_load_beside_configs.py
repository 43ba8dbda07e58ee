"""A checkpoint that says what it is of is loaded whatever lies beside it."""

from pathlib import Path

import pytest
import torch

import wiring_lightning as wl
from tests.cli.test_load import SMALL, _same, _saved
from wiring_lightning.checkpoints import CheckpointError, read_weights
from wiring_lightning.cli.runs import RunError
from wiring_lightning.cli.trust import UntrustedError
from wiring_lightning.tasks import ClassificationTask

OTHERS = {
    "of another project": "lr: 0.1\n",
    "no YAML": "a: [\n",
    "no mapping": "resnet\n",
    "no text": b"\xff\xfe\x00",
    "a model of another kind": "model: {name: resnet}\ndata: cifar\n",
    "a folder": None,
}


@pytest.mark.parametrize("above", [False, True], ids=["beside it", "one folder above"])
@pytest.mark.parametrize("case", OTHERS)
def test_a_file_that_says_what_it_is_of_needs_no_config(
    case: str, above: bool, tmp_path: Path
) -> None:
    task = ClassificationTask(wl.backbones.ResNeXt(**SMALL), label_smoothing=0.25)
    (tmp_path / "saved").mkdir()
    path = _saved(task, tmp_path / "saved" / "w.ckpt")
    config = (tmp_path if above else path.parent) / "config.yaml"
    other = OTHERS[case]
    if other is None:
        config.mkdir()
    else:
        config.write_bytes(other if isinstance(other, bytes) else other.encode())
    loaded = wl.load(path)
    assert loaded.label_smoothing == 0.25
    assert _same(loaded, task.backbone)
    content = read_weights(path)
    del content["network"]
    torch.save(content, path)
    with pytest.raises((RunError, CheckpointError, UntrustedError)):  # which then is needed
        wl.load(path)
