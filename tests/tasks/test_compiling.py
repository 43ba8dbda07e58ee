"""The `compile` of a task: what it takes, what it refuses, and that training stays the same."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.bad_input.configs import config_with, model
from tests.cli.commands import checkpoint_in, refused, succeed, weights_in, write
from tests.methods import METHODS, Method, digits, named, over
from tests.shallow import shallow
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.tasks import ClassificationTask, SegmentationTask

CHOICES: list[tuple[Any, dict[str, Any]]] = [
    (True, {}),
    ("reduce-overhead", {"mode": "reduce-overhead"}),
    ({"mode": "max-autotune", "dynamic": False}, {"mode": "max-autotune", "dynamic": False}),
    ({"backend": "eager", "fullgraph": True}, {"backend": "eager", "fullgraph": True}),
    ({"options": {"shape_padding": True}}, {"options": {"shape_padding": True}}),
]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of all calls of `torch.compile`, which still happen."""
    calls: list[dict[str, Any]] = []
    original = torch.compile

    @wraps(original)
    def watched(module: Callable[..., Any], **arguments: Any) -> Any:
        calls.append(arguments)
        return original(module, **arguments)

    monkeypatch.setattr(torch, "compile", watched)
    return calls


@pytest.mark.parametrize(("choice", "arguments"), CHOICES)
def test_torch_gets_what_was_asked_for(
    choice: Any, arguments: dict[str, Any], compiled: list[dict[str, Any]]
) -> None:
    ClassificationTask(nn.Linear(4, 3), compile=choice)
    SegmentationTask(nn.Conv2d(3, 2, 1), compile=choice)
    assert compiled == [arguments, arguments]


def test_nothing_is_compiled_unasked(compiled: list[dict[str, Any]]) -> None:
    ClassificationTask(nn.Linear(4, 3))
    assert compiled == []


BAD: list[tuple[Any, str]] = [
    ("reduce-overheads", "is refused by torch.compile: Unrecognized mode=reduce-overheads, should"),
    ("", "mode of compile is empty"),
    ({"mode": 3}, "is refused by torch.compile: Unrecognized mode=3"),
    ({"mod": "default"}, "compile has no key 'mod': the arguments of torch.compile are fullgraph"),
    ({"model": None}, "compile has no key 'model'"),
    ({"fullgraph": "yes"}, "fullgraph of compile must be true or false, got 'yes'"),
    ({"dynamic": "yes"}, "dynamic of compile must be true or false or null, got 'yes'"),
    ({"backend": "inducter"}, "no backend 'inducter': there are .*inductor"),
    ({"options": {"shape_paddings": True}}, "Unexpected optimization option shape_paddings.$"),
    ({"mode": "default", "options": {"shape_padding": True}}, "Either mode or options"),
]


@pytest.mark.parametrize(("choice", "said"), [*BAD, (3, "compile must be true, false, a mode")])
def test_what_torch_does_not_take_is_refused(choice: Any, said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said) as caught:
        ClassificationTask(nn.Linear(4, 3), compile=choice)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 300


NULL = (None, "model.compile: must be true or false or a mapping or text, got null")


@pytest.mark.parametrize(("choice", "said"), [*BAD[:4], NULL])
def test_the_command_line_refuses_it_too(choice: Any, said: str, tmp_path: Path) -> None:
    file = write(config_with(model(compile=choice)), tmp_path / "bad.yaml")
    assert said in refused("fit", "--config", file)


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (
        ["--model.compile={backend: eager, fullgraph: true}"],
        {"backend": "eager", "fullgraph": True},
    ),
    (
        ["--model.compile.backend=eager", "--model.compile.dynamic=false"],
        {"backend": "eager", "dynamic": False},
    ),
]


@pytest.mark.slow
def test_the_command_line_trains_the_same_network(
    tmp_path: Path, compiled: list[dict[str, Any]]
) -> None:
    network = shallow(named("resnet-learned"))
    config = config_with(model(backbone=network.config()["model"]["init_args"]["backbone"]))
    file, plain = write(config, tmp_path / "good.yaml"), tmp_path / "plain"
    succeed("fit", "--config", file, f"--trainer.default_root_dir={plain}")
    expected = weights_in(checkpoint_in(plain))
    for number, (options, saved) in enumerate(OPTIONS):
        folder = tmp_path / f"compiled{number}"
        succeed("fit", "--config", file, f"--trainer.default_root_dir={folder}", *options)
        assert compiled == [saved]
        compiled.clear()
        weights = weights_in(checkpoint_in(folder))
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3)
        (file_of_run,) = folder.rglob("config.yaml")
        assert yaml.safe_load(file_of_run.read_text())["model"]["init_args"]["compile"] == saved


def test_a_learning_fabric_is_refused_as_one_graph_before_it_trains() -> None:
    method = named("conv-fabric")
    task = method.task(compile={"fullgraph": True, "backend": "eager"})
    trainer = quiet_trainer(callbacks=method.new_callbacks(), limit_train_batches=1)
    with pytest.raises(MisconfigurationException, match="leave out fullgraph of compile, or name"):
        trainer.fit(task, digits())


@over([shallow(method) for method in METHODS if "compile" in method.without])
def test_with_breaks_training_is_the_same(method: Method) -> None:
    """What is more than one graph is compiled in parts."""
    torch._dynamo.reset()
    recorders = []
    for choice in (False, {"backend": "eager"}):
        torch.manual_seed(1)
        task, recorder = method.task(compile=choice), Recorder()
        callbacks = [*method.new_callbacks(), recorder]
        quiet_trainer(callbacks=callbacks, limit_train_batches=2).fit(task, digits(16))
        recorders.append(recorder)
    plain, compiled = recorders
    for ours, theirs in zip(compiled.scores, plain.scores, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
