"""A traced network as JSON and named weights.

The JSON lists operators and what they are applied to. Whoever reads it runs no code that the file
brings: every operator must be a pure one of PyTorch's core set, or one of the few named here.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node

from wiring_lightning import __version__
from wiring_lightning.export.errors import ExportError
from wiring_lightning.export.tracing import OWN

FORMAT, VERSION = "wiring_lightning.network", 1
LOOP = "while_loop"
# Arithmetic of sizes, and parts of several results.
PYTHON: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in ("add", "floordiv", "getitem", "mod", "mul", "neg", "sub")
}
# Beside what PyTorch tags as its core set: each computes tensors of its arguments, the same each
# time.
ALLOWED = {
    str(OWN), "aten.sym_size.int", "aten.var_mean.correction",
    "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default",
    "aten._upsample_bicubic2d_aa.default", "aten._upsample_bilinear2d_aa.default",
    "aten.sort.stable", "aten.kthvalue.default", "aten.median.dim",
    "aten.cummax.default", "aten.cummin.default", "aten.cumprod.default",
    "aten.logcumsumexp.default", "aten.bucketize.Tensor", "aten.unfold.default",
    "aten.copysign.Tensor", "aten.erfinv.default", "aten.hypot.default", "aten.round.decimals",
}  # fmt: skip
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_CHECK = "aten._assert_tensor_metadata.default"  # computes nothing, and is left out
_ROOT = "network."  # what the names of weights begin with in a trace
_INSTEAD = "export it as .pt2"


def describe(program: ExportedProgram) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the weights of a traced network.

    Args:
        program: of `trace`.

    Returns:
        Plain values for JSON, and the tensors that they name.

    Raises:
        ExportError: if an operator or a value has no place in a description.

    Example:
        >>> from wiring_lightning.export import trace
        >>> description, weights = describe(trace(torch.nn.ReLU(), torch.zeros(1, 4, 4)))
        >>> description["image"], description["graphs"]["main"]["steps"][1]
        ([1, 4, 4], {'op': 'aten.relu.default', 'args': [{'value': 1}]})
    """
    names, weights, buffers = {}, dict[str, Tensor](), []
    images = None
    for spec, node in zip(program.graph_signature.input_specs, _inputs(program.graph), strict=True):
        if spec.kind == InputKind.USER_INPUT:
            images = node
        elif spec.kind in _WEIGHTS and spec.target is not None:
            if not node.users:
                continue  # such as a batch norm's number of batches
            name = names[node] = spec.target.removeprefix(_ROOT)
            home = program.state_dict if spec.target in program.state_dict else program.constants
            weights[name] = home[spec.target].detach()
            if spec.kind != InputKind.PARAMETER:
                buffers.append(name)
        else:
            raise ExportError(
                f"a network with inputs of the kind {spec.kind} cannot be described: {_INSTEAD}."
            )
    assert images is not None
    image = images.meta["val"]
    graphs = {"main": _graph(program.graph, [images], names)}
    # Beside the logits there can be new values of buffers, such as a number of calls.
    outputs = zip(program.graph_signature.output_specs, graphs["main"]["outputs"], strict=True)
    graphs["main"]["outputs"] = [o for spec, o in outputs if spec.kind == OutputKind.USER_OUTPUT]
    for name, module in program.graph_module.named_children():
        if isinstance(module, GraphModule):
            graphs[name] = _graph(module.graph, _inputs(module.graph), {})
    description = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"wiring_lightning {__version__}, torch {torch.__version__}",
        "image": [int(size) for size in image.shape[1:]],
        "image_dtype": _word(image.dtype),
        "buffers": buffers,
        "graphs": graphs,
    }
    return description, weights


def operator_named(name: str) -> Callable[..., Any]:
    """The operator of a name such as `"aten.relu.default"`, if a description may hold it.

    Raises:
        ExportError: if not; nothing of that name is called.

    Example:
        >>> operator_named("aten.relu.default")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
        >>> operator_named("aten.from_file.default")
        Traceback (most recent call last):
        ...
        wiring_lightning.export.errors.ExportError: the operator aten.from_file.default is none ...
    """
    found = _find_operator(name)
    if found is None:
        raise ExportError(f"the operator {name} is none of PyTorch's core set, and is not run.")
    return found


def _find_operator(name: str) -> Callable[..., Any] | None:
    """The operator of a name, or `None` if a description may not hold it."""
    if name in PYTHON:
        return PYTHON[name]
    space, *path = name.split(".")
    if space in ("aten", "wiring_lightning") and len(path) == 2:
        packet = getattr(getattr(torch.ops, space), path[0], None)
        found = getattr(packet, path[1], None)
        if isinstance(found, type(OWN)) and (torch.Tag.core in found.tags or name in ALLOWED):
            return found
    return None


def _inputs(graph: Graph) -> list[Node]:
    """All inputs of a graph; of the outermost one also its weights."""
    return list(graph.find_nodes(op="placeholder"))


def _graph(graph: Graph, inputs: Iterable[Node], weights: Mapping[Node, str]) -> dict[str, Any]:
    """A graph as JSON: values have numbers, first the inputs and then the result of every step.

    Args:
        graph: of a traced network, or of a part of a loop in it.
        inputs: its inputs that are no weights.
        weights: the names of the others.
    """
    # What each node is called in the arguments of others.
    refers: dict[Node, dict[str, Any]] = {node: {"weight": name} for node, name in weights.items()}
    for number, node in enumerate(inputs):
        refers[node] = {"value": number}
    count, steps, outputs = len(refers) - len(weights), list[dict[str, Any]](), None
    for node in graph.nodes:
        if node.op == "get_attr":
            refers[node] = {"graph": node.target}
        elif node.op == "output":
            (outputs,) = node.args
        elif node.op == "call_function" and _name(node.target) != _CHECK:
            name = _name(node.target)
            if name != LOOP and _find_operator(name) is None:
                raise ExportError(
                    f"the operator {name} is none of PyTorch's core set, and a description may "
                    f"not hold it: {_INSTEAD}."
                )
            step: dict[str, Any] = {"op": name, "args": [_plain(a, refers) for a in node.args]}
            options = {key: _plain(value, refers) for key, value in node.kwargs.items()}
            options.pop("layout", None)  # always strided
            if options:
                step["kwargs"] = options
            refers[node] = {"value": count + len(steps)}
            steps.append(step)
    flat = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return {"inputs": count, "steps": steps, "outputs": [_plain(value, refers) for value in flat]}


def _name(target: Any) -> str:
    """The name of what a step calls, such as `"aten.relu.default"`."""
    for name, function in PYTHON.items():
        if target is function:
            return name
    return str(target)


def _plain(value: Any, refers: Mapping[Node, dict[str, Any]]) -> Any:
    """An argument as JSON; what is no plain value is a mapping with one key."""
    if isinstance(value, Node):
        return refers[value]
    if isinstance(value, list | tuple):
        return [_plain(part, refers) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": _word(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": _word(value)}
    if isinstance(value, torch.device):
        return {"device": None}  # that of the images
    if isinstance(value, torch.layout):
        return None
    raise ExportError(
        f"a value of type {type(value).__name__} has no place in a description: {_INSTEAD}."
    )


def _word(value: torch.dtype | torch.memory_format) -> str:
    return str(value).removeprefix("torch.")
