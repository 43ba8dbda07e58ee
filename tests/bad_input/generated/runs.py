"""Spoilt folders of runs, as `figure`, `pareto` and `inspect` read them."""

import io
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from tests.bad_input.generated.bases import tiny
from tests.bad_input.generated.case import RAN, Case
from tests.bad_input.generated.configs import spoil_config
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.tasks import ClassificationTask

_CHECKPOINT = "checkpoints/epoch=0-step=1.ckpt"
_EVENTS = "events.out.tfevents.1.host.1.0"
_KINDS = ("connectivity", "active", "graph", "degrees", "accuracy", "efficiency", "reuse")


@lru_cache(maxsize=1)
def _good() -> Mapping[str, bytes]:
    """The files of a run that ended well, without training one."""
    config = tiny()[0]
    arguments = config["model"]["init_args"]["backbone"]["init_args"]
    task = ClassificationTask(ResNeXt(**arguments))
    checkpoint = io.BytesIO()
    content = {"state_dict": task.state_dict(), "global_step": 1,
               "pytorch-lightning_version": "2.6.6"}  # fmt: skip
    torch.save(content, checkpoint)
    with TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for tag in ("val/acc", "test/acc"):
                writer.add_scalar(tag, 0.5, 1)
        (events,) = Path(folder).iterdir()
        scalars = events.read_bytes()
    text = yaml.safe_dump(config).encode()
    return {"config.yaml": text, _CHECKPOINT: checkpoint.getvalue(), _EVENTS: scalars}


def _damaged(content: bytes, random: Random) -> bytes:
    at = random.randrange(1, len(content))
    return random.choice(
        [b"", content[:at], content[at:], b"text\n", random.randbytes(300),
         content[:at] + random.randbytes(8) + content[at:], content[: len(content) // 2]]
    )  # fmt: skip


def _config(random: Random) -> tuple[str, bytes]:
    config: Any = deepcopy(tiny()[0])
    said = spoil_config(config, random)
    return said, yaml.safe_dump(config, allow_unicode=True).encode()


def _spoil(files: dict[str, bytes], random: Random) -> str:
    """Change the files of a run, and say how."""
    name = random.choice(list(files))
    match random.randrange(8):
        case 0:
            del files[name]
            return f"without {name}"
        case 1 | 2:
            files[name] = _damaged(files[name], random)
            return f"damaged {name}"
        case 3:
            del files[name]
            files[f"{name}/file"] = b""
            return f"{name} is a folder"
        case 4:
            said, files["config.yaml"] = _config(random)
            return said
        case 5:
            foreign = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", RAN]}}
            config: Any = tiny()[0]
            place = random.choice([("model",), ("model", "init_args"), ("trainer",), ("data",)])
            part = config
            for key in place:
                part = part[key]
            part[random.choice(["backbone", "class_path", "optimizer", "logger"])] = foreign
            files["config.yaml"] = yaml.safe_dump(config).encode()
            return f"{place} holds something foreign"
        case 6:
            files["checkpoints/other.ckpt"] = _damaged(files.get(_CHECKPOINT, b"12"), random)
            return "another checkpoint"
        case _:
            files["config.yaml"] = yaml.safe_dump(
                random.choice([{}, [], 3, {"model": None}])
            ).encode()
            return "a config of nothing"


def spoilt_runs(random: Random, number: int) -> Case:
    """A command that reads one run that is spoilt, or two of which one is."""
    run = dict(_good())
    said = _spoil(run, random)
    files = {f"version_0/{name}": content for name, content in run.items()}
    folders = ["version_0"]
    if random.random() < 0.4:
        files |= {f"version_1/{name}": content for name, content in _good().items()}
        folders.append("version_1")
    kind = random.choice(_KINDS)
    if kind in ("connectivity", "graph", "degrees", "reuse"):
        folders = folders[:1]
    inspect = ("inspect", "--config", "version_0/config.yaml")
    commands = [("figure", kind, *folders), ("pareto", *folders), inspect,
                (*inspect, "--ckpt_path", f"version_0/{_CHECKPOINT}")]  # fmt: skip
    return Case(f"{number}: {said}", random.choice(commands), files)
