"""Graphs that torch.compile traces, and what CUDA graphs need of them.

A CUDA graph is recorded once and replayed. It reads and writes the same memory in every step, never
waits for the host, and does not read the host's memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule, Node


def traced_graphs(network: nn.Module) -> list[GraphModule]:
    """Compile a network; graphs come to the list as they are traced, and must have no breaks."""
    graphs = list[GraphModule]()

    def keep(graph: GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    network.compile(backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    return graphs


def check_graphs(graphs: list[GraphModule], device: str) -> None:
    """All is on this device, of one size, and handed in: a constant is copied from the host."""
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
