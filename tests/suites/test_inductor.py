"""A training step of inductor, torch.compile's own backend, is that of the plain network.

Slow: inductor writes C++ for each network, and a compiler translates it.
"""

import os
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from tests.methods import Method, digits, named, over
from tests.shallow import shallow
from tests.suites.test_compiles import fixed_fabric
from tests.trainers import quiet_trainer
from wiring_lightning.backbones.residual_network import ResidualNetwork
from wiring_lightning.functional import Space
from wiring_lightning.nn import Gate, ResidualBlock
from wiring_lightning.tasks import ClassificationTask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))),
        reason="inductor needs a C++ compiler",
    ),
]


def few_blocks() -> ResidualNetwork:
    """A ResNet of two stages with three blocks, the last of which reads one of the others."""
    wide, narrow = Space(4, 1), Space(8, 2)
    spaces = [(wide, wide), (wide, wide), (wide, narrow)]
    blocks = {f"block{n}": ResidualBlock("basic", *each) for n, each in enumerate(spaces, start=1)}
    return ResidualNetwork(
        stem=nn.Sequential(nn.Conv2d(1, wide.channels, 3, padding=1)),
        blocks=blocks,
        connection=Gate(2, 2, 1, "learned", torch.ones(2, 2, dtype=torch.bool).tril()),
        fan_in=1,
        mean=True,
        spaces=[wide, narrow],
        classifier=nn.Linear(narrow.channels, 10),
        image_size=8,
    )


# One of each kind of wiring, as small as it can be: the time is that of the compiler. For each
# network inductor gets the same operations of torch, in graphs that `test_compiles` traces.
SMALL_GRAPH = {"nodes": 30, "inputs": 4, "outputs": 8, "depth": 2, "edges": 60}
FAMILIES = [
    replace(named("resnet-learned"), backbone=few_blocks, arguments={}),
    replace(named("neural-graph"), arguments=named("neural-graph").arguments | SMALL_GRAPH),
    shallow(named("conv-fabric")),
]


class Gradients(Callback):
    """The loss and the gradients of the first step, those of the scores too."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, _trainer: Any, task: Any, _optimizer: Any) -> None:
        self.values = {
            name: parameter.grad.clone()
            for name, parameter in task.named_parameters()
            if parameter.grad is not None
        }

    def on_train_batch_end(self, _trainer: Any, task: Any, outputs: Any, *_: Any) -> None:
        self.values["loss"] = outputs["loss"].clone()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all that inductor writes: the headers are translated once for all networks."""
    return tmp_path_factory.mktemp("inductor")


@over(FAMILIES)
def test_a_step_is_that_of_the_plain_network(
    method: Method, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    before = set(cache.rglob("*.cpp"))
    torch._dynamo.reset()
    plain = fixed_fabric(method, "frozen") if method.name == "conv-fabric" else method.task()
    compiled = ClassificationTask(
        deepcopy(plain.backbone), plain.optimizer, compile={"fullgraph": True}
    )
    callbacks = [] if method.name == "conv-fabric" else method.new_callbacks()
    expected, actual = (_first_step(task, callbacks) for task in (plain, compiled))
    assert actual.keys() == expected.keys()
    scores = [name for name in actual if name.endswith("scores")]
    assert bool(scores) == (method.learns == "scores" and method.name != "conv-fabric")
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-5, rtol=1e-3, msg=name)
    assert set(cache.rglob("*.cpp")) - before  # inductor did it


def _first_step(task: ClassificationTask, callbacks: list[Callback]) -> dict[str, Tensor]:
    gradients = Gradients()
    trainer = quiet_trainer(callbacks=[*callbacks, gradients], limit_train_batches=1)
    trainer.fit(task, digits(16, augment=False))
    return gradients.values
