"""A network is one graph, and a wiring that changes does not make torch.compile start again.

CUDA graphs can replay these graphs, see `tests.graphs`.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from tests.graphs import check_graphs, traced_graphs
from tests.methods import LEARNING, METHODS, Method, digits, named, over
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.nn import find_adjacencies, find_bernoulli_gates, find_gates, find_learnable
from wiring_lightning.tasks import ClassificationTask

# Those whose wiring is drawn outside of the graph until it is frozen.
DRAWN = [method for method in METHODS if find_bernoulli_gates(method.task())]


@over(METHODS, "compile", "network")
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
    froze = method in LEARNING and any(not graph.learnable for graph in graphs)
    assert len(traced) == 2 * (1 + froze)  # forward and backward
    check_graphs(traced, "cpu")
    changed = [not torch.equal(recorder.active[0], active) for active in recorder.active]
    assert any(changed) == (method in LEARNING)


@pytest.mark.parametrize(
    ("name", "most"),
    [("resnext-learned", 2), ("neural-graph", 2), ("n-of-m", 1)],
)
def test_a_freeze_compiles_at_most_once_more(name: str, most: int) -> None:
    """What is frozen gets no gradient; not every release of torch compiles again for that."""
    torch._dynamo.reset()
    counter, method = CompileCounter(), named(name)
    ((make, arguments),) = method.callbacks
    trainer = quiet_trainer(
        callbacks=[make(**arguments, freeze_epoch=1)], max_epochs=2, limit_train_batches=3
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


@pytest.mark.parametrize("way", ["frozen", "built"])
@over(DRAWN)
def test_a_fixed_fabric_is_one_graph(method: Method, way: str) -> None:
    torch._dynamo.reset()
    counter, task = CompileCounter(), fixed_fabric(method, way)
    assert not find_learnable(task)
    twin, images = deepcopy(task).eval(), torch.randn(5, 1, 8, 8)
    task.backbone.compile(backend=counter, fullgraph=True)
    torch.testing.assert_close(task.eval()(images), twin(images))
    assert counter.frame_count == 1
    quiet_trainer(limit_train_batches=5).fit(task.train(), digits())
    assert counter.frame_count == 2  # another mode is another graph


@over(DRAWN)
def test_the_graphs_of_a_frozen_fabric_hold_no_constants(method: Method) -> None:
    task = fixed_fabric(method, "frozen")
    graphs = traced_graphs(task.backbone)
    task(torch.randn(8, 1, 8, 8)).sum().backward()
    check_graphs(graphs, "cpu")


@over(DRAWN)
def test_a_fabric_has_no_breaks_once_a_run_has_frozen_it(method: Method) -> None:
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
def test_compiled_network_computes_the_same() -> None:
    torch._dynamo.reset()
    method = named("resnext-learned")
    backbone = method.backbone(**method.arguments)
    images = torch.randn(4, 1, 8, 8)
    scores = [gate.scores for gate in find_gates(backbone).values()]
    plain = backbone(images)
    expected = torch.autograd.grad(plain.square().sum(), scores)
    compiled = torch.compile(backbone, backend="aot_eager")(images)
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
    actual = torch.autograd.grad(compiled.square().sum(), scores)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)
