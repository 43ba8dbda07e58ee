"""The bytes of the three formats."""

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from wiring_lightning.export.description import describe
from wiring_lightning.export.errors import ExportError, first_cause, first_line, needs_extra

KEY = "wiring_lightning"  # of the description in the header of a .safetensors file
_LARGEST_ONNX = 2**31 - 1  # bytes of one protobuf message


def safetensors_bytes(program: ExportedProgram) -> bytes:
    """The weights of a traced network, with its description in the header."""
    with needs_extra("Writing .safetensors"):
        from safetensors.torch import save
    description, weights = describe(program)
    own = {name: value.contiguous().clone() for name, value in weights.items()}
    description["sha256"] = checksum(own)
    return save(own, {KEY: json.dumps(description, separators=(",", ":"))})


def pt2_bytes(program: ExportedProgram) -> bytes:
    """A program for `torch.export.load`; whoever runs it does not need this package."""
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


def onnx_bytes(program: ExportedProgram) -> bytes:
    """A graph from `images` to `logits`, for ONNX Runtime and others.

    Raises:
        ExportError: if a package is missing, or the network has no such form.
    """
    with needs_extra("Writing .onnx"):
        import onnxruntime  # noqa: F401  # that the file can be run is checked at once
        import onnxscript  # noqa: F401
    values = (node.meta.get("val") for node in program.graph.nodes)
    if any(isinstance(v, Tensor) and v.dtype == torch.bfloat16 for v in values):
        raise ExportError(
            "ONNX Runtime does not compute in bfloat16 on a CPU: convert the network and the "
            "images with .float(), or export it as .pt2 or .safetensors."
        )
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # notes about each constant that is not folded
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=["images"], output_names=["logits"]
            )
    except Exception as error:
        raise ExportError(
            "the network has no ONNX form in this version of torch "
            f"({first_line(first_cause(error))}): export it as .pt2 or .safetensors."
        ) from error
    finally:
        logging.disable(level)
    assert written is not None
    _name_batch(written.model.graph)
    message = written.model_proto
    if message.ByteSize() > _LARGEST_ONNX:
        raise ExportError("an .onnx file holds at most 2 GB: export it as .pt2 or .safetensors.")
    content: bytes = message.SerializeToString()
    return content


def checksum(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the bytes of all weights, in the order of their names.

    Example:
        >>> checksum({"bias": torch.zeros(2)})[:8]
        'af5570f5'
    """
    total = hashlib.sha256()
    for _, value in sorted(weights.items()):
        total.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _name_batch(graph: Any) -> None:
    """Call the free dimension `batch`; the tracer calls it `s34` or so."""
    for value in (*graph.inputs, *graph.outputs):
        value.shape[0] = "batch"
