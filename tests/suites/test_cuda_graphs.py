"""What CUDA graphs need, of `mode="reduce-overhead"`: all stays on one device and at its address.

A CUDA graph is recorded once and replayed. It reads and writes the same memory in every step, never
waits for the host, and does not read the host's memory. None of these tests needs a GPU: the
network is traced as if it were on one.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node

from tests.methods import METHODS, SCORED, Method, digits, over
from tests.suites.test_compiles import DRAWN, fixed_fabric
from tests.trainers import quiet_trainer
from wiring_lightning.tasks import ClassificationTask

# Each network once, whatever learns its wiring.
NETWORKS = list({(row.backbone, str(row.arguments)): row for row in reversed(METHODS)}.values())


class Addresses(Callback):
    """The addresses of all parameters and buffers, when a batch starts."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def on_train_batch_start(self, _trainer: Any, task: Any, *_: Any) -> None:
        named = [*task.backbone.named_parameters(), *task.backbone.named_buffers()]
        self.seen.append({name: tensor.data_ptr() for name, tensor in named})


@over(METHODS, "network")
def test_weights_and_wirings_stay_where_they_are(method: Method) -> None:
    task, addresses = method.task(), Addresses()
    # Those that can be frozen by this argument are, before the last epoch.
    freeze = {"freeze_epoch": method.epochs} if method in SCORED else {}
    learners = [make(**arguments, **freeze) for make, arguments in method.callbacks]
    trainer = quiet_trainer(
        callbacks=[*learners, addresses],
        max_epochs=method.epochs + 1,
        limit_train_batches=4,
    )
    trainer.fit(task, digits(16))
    first, *later = addresses.seen
    assert len(later) == 4 * (method.epochs + 1) - 1
    for seen in later:
        assert seen == first


@over(NETWORKS, "compile")
def test_the_graphs_hold_no_constants(method: Method) -> None:
    """A tensor that is made from numbers in each call is one: it is copied from the host."""
    graphs = _traced(method.task())
    assert len(graphs) == 2  # forward and backward
    _check(graphs, "cpu")


@over(DRAWN)
def test_neither_do_those_of_a_frozen_fabric(method: Method) -> None:
    _check(_traced(fixed_fabric(method, "frozen")), "cpu")


@pytest.mark.slow
@over(NETWORKS, "compile")
def test_on_a_gpu_all_would_be_there(method: Method) -> None:
    """Only the forward pass: autograd asks for the GPU itself."""
    backbone, graphs = method.task().backbone, list[GraphModule]()
    pretended = FakeTensorMode()
    for module in backbone.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    with pretended:
                        there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    if isinstance(tensor, nn.Parameter):
                        there = nn.Parameter(there, tensor.requires_grad)
                    tensors[name] = there
    _compile(backbone, graphs)
    with pretended, torch.no_grad():
        backbone(torch.empty(8, 1, 8, 8, device="cuda"))
    assert len(graphs) == 1
    _check(graphs, "cuda")


def _traced(task: ClassificationTask) -> list[GraphModule]:
    graphs = list[GraphModule]()
    _compile(task.backbone, graphs)
    task(torch.randn(8, 1, 8, 8)).sum().backward()
    return graphs


def _compile(network: nn.Module, graphs: list[GraphModule]) -> None:
    def keep(graph: GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    network.compile(backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)


def _check(graphs: list[GraphModule], device: str) -> None:
    for graph in graphs:
        for node in graph.graph.nodes:
            assert node.op != "get_attr", f"{node} is a constant, read by {list(node.users)}"
            for value in _values(node):
                assert isinstance(value, Tensor), f"{node} is a number that the host must know"
                assert value.device.type == device, f"{node} is on {value.device}"
                assert all(isinstance(size, int) for size in value.shape), f"{node} varies in size"


def _values(node: Node) -> Iterator[Any]:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    yield from (value for value in values if value is not None)
