"""A wiring that changes in every step does not make torch.compile start again."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from tests.methods import LEARNING, METHODS, Method, digits, named, over
from tests.trainers import Recorder, quiet_trainer
from wiring_lightning.nn import find_adjacencies, find_gates


@over(METHODS, "compile")
def test_one_graph_for_all_wirings(method: Method) -> None:
    torch._dynamo.reset()
    counter, recorder, task = CompileCounter(), Recorder(), method.task()
    task.backbone.compile(backend=counter, fullgraph=True)
    trainer = quiet_trainer(
        callbacks=[*method.new_callbacks(), recorder],
        max_epochs=method.epochs,
        limit_train_batches=10,
    )
    trainer.fit(task, digits())
    graphs = find_adjacencies(task).values()
    # Those that were frozen meanwhile compute another gradient since then: one graph more.
    froze = method in LEARNING and any(not graph.learnable for graph in graphs)
    assert counter.frame_count == 1 + froze
    changed = [not torch.equal(recorder.active[0], active) for active in recorder.active]
    assert any(changed) == (method in LEARNING)


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
