"""A network as a list of operators, for any number of images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from typing_extensions import override

from wiring_lightning.export.errors import ExportError, first_line
from wiring_lightning.functional import sparse_product
from wiring_lightning.nn import BernoulliGate, Gate, store_dense
from wiring_lightning.nn.as_usual import as_usual
from wiring_lightning.nn.evaluating import evaluating
from wiring_lightning.nn.outputs import find_outputs
from wiring_lightning.nn.replacing import replace_modules
from wiring_lightning.wiring import Wired

assert sparse_product  # imported, so that torch has the operator
OWN = torch.ops.wiring_lightning.sparse_product.default
_IMAGES = 2  # of the batch that is traced; a batch of one would be taken for a constant


class _Root(nn.Module):
    """Holds a network, whose attributes then cannot collide with those of torch's own graphs.

    What a tracer writes down about memory, such as that a flatten is a view, holds for images in
    the same layout only. So the graph begins with a copy in the usual layout. A network may also
    write into it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, images: Tensor) -> Tensor:
        images = images.clone(memory_format=torch.contiguous_format)
        return find_outputs(self.network(images), type(self.network).__name__).logits


def plain_network(network: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode; networks with a `wiring()` become compact ones.

    Layers of `nn.store_sparse` become dense again: their layout is the choice of one machine. Gates
    outside of such networks are frozen: that is what they compute in evaluation mode.

    Args:
        network: any module, such as a backbone of this package or one that holds such a backbone.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> from wiring_lightning.nn import Gate
        >>> plain = plain_network(ResNeXt(depth=11, fan_in=1))
        >>> any(isinstance(module, Gate) for module in plain.modules())
        False
    """
    # A copy: a compact network may share tensors with the network that it is made of, or be it.
    plain = store_dense(network)
    wired = dict.fromkeys(_outermost_wired(plain))
    plain = replace_modules(plain, {one: one.compact() for one in wired}).cpu().eval()
    for module in plain.modules():
        if isinstance(module, Gate | BernoulliGate):
            module.freeze()
    return plain


def _outermost_wired(module: nn.Module) -> Iterator[Any]:
    """The networks with a wiring in a module, without those that are inside of another one."""
    if isinstance(module, Wired):
        yield module
        return
    for child in module.children():
        yield from _outermost_wired(child)


def trace(network: nn.Module, image: Tensor, sparse: bool = False) -> ExportedProgram:
    """Trace a network in evaluation mode as core ATen operators; the batch stays free.

    Args:
        network: such as one of `plain_network`, on the CPU.
        image: `[channels, height, width]` an image of the right size; its values do not matter.
        sparse: whether products of sparse matrices stay one operator of this package. Otherwise
            they become dense products, which every program can read.

    Raises:
        ExportError: if the network cannot be traced, or only for one number of images.

    Example:
        >>> program = trace(nn.Conv2d(3, 2, 3), torch.zeros(3, 8, 8))
        >>> program.module()(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 2, 6, 6])
    """
    images = torch.stack([image] * _IMAGES)
    shapes = {"images": {0: Dim("batch", min=1)}}
    table = torch.export.default_decompositions()
    if not sparse:
        table[OWN] = _dense_product
    root = _Root(network)
    try:
        with as_usual(network), torch.no_grad(), evaluating(root):
            traced = torch.export.export(root, (images,), dynamic_shapes=shapes, strict=False)
            program = traced.run_decompositions(table)
    except Exception as error:  # a tracer fails in any way on code that it does not understand
        raise ExportError(
            f"{type(network).__name__} cannot be exported: torch.export cannot trace it for any "
            f"number of images ({first_line(error)})."
        ) from error
    _forget_source(program)
    return program


def _forget_source(program: ExportedProgram) -> None:
    """Remove lines of code and paths of this machine, which torch would write into files."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
                node.meta.pop("from_node", None)


def _dense_product(values: Tensor, row: Tensor, column: Tensor, dense: Tensor, rows: int) -> Tensor:
    """What `functional.sparse_product` computes, by operators that every program has."""
    matrix = values.new_zeros(rows, dense.shape[0]).index_put((row, column), values)
    return matrix @ dense
