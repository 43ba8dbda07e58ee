"""A wiring that changes in every step does not make torch.compile start again."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.optim import SGD

from tests.methods import METHODS, Method
from tests.trainers import active_edges
from wiring_lightning.nn import find_adjacencies, find_gates
from wiring_lightning.optim import EdgeSet, GateSGD, StraightThrough


@pytest.mark.parametrize(
    "method", [m for m in METHODS if not m.per_example], ids=lambda method: method.name
)
def test_one_graph_for_all_wirings(method: Method) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    backbone = method.backbone(**method.arguments)
    gates = list(find_gates(backbone).values())
    optimizer = GateSGD(gates, lr=0.5) if gates else None
    for graph in find_adjacencies(backbone).values():
        optimizer = SGD([graph.weight], lr=0.5)
        edges = EdgeSet([graph.weight], graph.edges, [graph.usable], [graph.take_absent()])
        StraightThrough(optimizer, [edges])
    drawn = []
    compiled = torch.compile(backbone, backend=counter, fullgraph=True)
    for _ in range(6):
        compiled(torch.randn(8, 1, 8, 8)).square().sum().backward()
        if optimizer:
            optimizer.step()
            drawn.append(torch.cat([edges.flatten() for edges in active_edges(backbone)]))
    assert counter.frame_count == 1
    if method.name in ("resnext-learned", "neural-graph"):
        assert len({tuple(wiring.tolist()) for wiring in drawn}) > 3


@pytest.mark.slow
def test_compiled_network_computes_the_same() -> None:
    torch._dynamo.reset()
    backbone = METHODS[0].backbone(**METHODS[0].arguments)
    images = torch.randn(4, 1, 8, 8)
    scores = [gate.scores for gate in find_gates(backbone).values()]
    plain = backbone(images)
    expected = torch.autograd.grad(plain.square().sum(), scores)
    compiled = torch.compile(backbone, backend="aot_eager")(images)
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
    actual = torch.autograd.grad(compiled.square().sum(), scores)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)
