"""A network is one graph, and a wiring that changes does not make torch.compile start again.

CUDA graphs can replay these graphs, see `tests.graphs`.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from tests.graphs import check_graphs, traced_graphs
from tests.methods import METHODS, Method, digits, named, over
from tests.shallow import shallow
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.nn import find_adjacencies, find_bernoulli_gates, find_learnable
from wiring_lightning.tasks import ClassificationTask

# Rows whose graph is that of another row: what acts on their weights is no part of it.
_SAME_GRAPH = ("resnext-random", "resnext-full", "resnet-previous", "targeted-dropout")
# Their layers are those of neural-graph, and of all the others.
_SLOW = (
    "mobilenet-dnw", "discrete-graph", "l1-anneal", "sparse-layers", "densenet-learned",
    "sparsenet", "sparse-resnet",
)  # fmt: skip
TRACED = [
    replace(shallow(method), slow=method.slow or method.name in _SLOW)
    for method in METHODS
    if method.name not in _SAME_GRAPH
]


@over(TRACED, "compile", "network")
def test_one_graph_for_all_wirings(method: Method) -> None:
    recorder, task = Recorder(), method.task()
    traced = traced_graphs(task.backbone)
    trainer = quiet_trainer(
        callbacks=[*method.new_callbacks(), recorder],
        max_epochs=method.epochs,
        limit_train_batches=10,
    )
    trainer.fit(task, digits())
    graphs = find_adjacencies(task).values()
    # Those that were frozen meanwhile compute another gradient since then: one graph more.
    froze = method.learns != "nothing" and any(not graph.learnable for graph in graphs)
    assert len(traced) == 2 * (1 + froze)  # forward and backward
    check_graphs(traced, "cpu")
    changed = [not torch.equal(recorder.active[0], active) for active in recorder.active]
    assert any(changed) == (method.learns != "nothing")


@pytest.mark.parametrize(
    ("name", "most"),
    [("resnet-learned", 2), ("neural-graph", 2), ("n-of-m", 1)],
)
def test_a_freeze_compiles_at_most_once_more(name: str, most: int) -> None:
    """What is frozen gets no gradient; not every release of torch compiles again for that."""
    torch._dynamo.reset()
    counter, method = CompileCounter(), shallow(named(name))
    ((make, arguments),) = method.callbacks
    trainer = quiet_trainer(
        callbacks=[make(**arguments, freeze_epoch=1)], max_epochs=2, limit_train_batches=2
    )
    trainer.fit(method.task(compile={"backend": counter, "fullgraph": True}), digits())
    assert 1 <= counter.frame_count <= most


def fixed_fabric(method: Method, way: str) -> ClassificationTask:
    """A super-network whose architecture is fixed: by a freeze, or given when it is built."""
    task = method.task()
    (gate,) = find_bernoulli_gates(task).values()
    with torch.no_grad():
        gate.logits[1::3] = -1.0
    gate.freeze()
    assert gate.fixed is not None
    assert {True, False} == set(gate.fixed)
    if way == "frozen":
        return task
    architecture = task.backbone.architecture_names
    backbone = method.backbone(**{**method.arguments, "architecture": architecture})
    return ClassificationTask(backbone, optimizer=task.optimizer)


def test_a_fabric_that_was_frozen_is_one_graph_without_constants() -> None:
    task = fixed_fabric(shallow(named("conv-fabric")), "frozen")
    assert not find_learnable(task)
    twin, images = deepcopy(task).eval(), torch.randn(64, 1, 8, 8)
    traced = traced_graphs(task.backbone)
    with torch.no_grad():
        torch.testing.assert_close(task.eval()(images), twin(images))
    assert len(traced) == 1
    quiet_trainer(limit_train_batches=2).fit(task.train(), digits())
    assert len(traced) == 3  # another mode is another graph, and one for its gradients
    check_graphs(traced, "cpu")


def test_a_fabric_that_was_built_fixed_is_one_graph() -> None:
    torch._dynamo.reset()
    counter, task = CompileCounter(), fixed_fabric(shallow(named("conv-fabric")), "built")
    assert not find_learnable(task)
    task.backbone.compile(backend=counter, fullgraph=True)
    quiet_trainer(limit_train_batches=2).fit(task, digits())
    assert counter.frame_count == 1


def test_a_fabric_has_no_breaks_once_a_run_has_frozen_it() -> None:
    method = shallow(named("conv-fabric"))
    torch._dynamo.reset()
    breaks: list[int] = []

    class CountBreaks(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            breaks.append(len(counters["graph_break"]))
            counters["graph_break"].clear()

    ((make, arguments),) = method.callbacks
    task = method.task(compile={"backend": "eager"})
    counters["graph_break"].clear()
    trainer = quiet_trainer(
        callbacks=[make(**arguments, freeze_epoch=1), CountBreaks()],
        max_epochs=2,
        limit_train_batches=2,
    )
    trainer.fit(task, digits())
    learning, frozen = breaks[:2], breaks[2:]
    assert learning[0] > 0
    assert frozen == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_graph_in_continuous_time_is_compiled_in_parts(adjoint: bool) -> None:
    method = named("continuous-graph")
    torch.manual_seed(0)
    plain = method.backbone(**method.arguments, adjoint=adjoint)
    compiled = torch.compile(deepcopy(plain))
    images = torch.randn(4, 1, 8, 8)
    found, expected = compiled(images), plain(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    found.square().sum().backward()
    expected.square().sum().backward()
    for here, there in zip(compiled.parameters(), plain.parameters(), strict=True):
        # A solver's steps may differ by a rounding, so numbers are compared with the largest.
        bound = 1e-3 * max(1.0, float(there.grad.abs().max()))
        torch.testing.assert_close(here.grad, there.grad, atol=bound, rtol=0)
