"""Writing a network into a file that is run, and compared, before it gets its name."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from wiring_lightning.backbones import NeuralGraph
from wiring_lightning.export.errors import ExportError, first_line
from wiring_lightning.export.formats import onnx_bytes, pt2_bytes, safetensors_bytes
from wiring_lightning.export.reading import load_exported
from wiring_lightning.export.source_check import check_answers
from wiring_lightning.export.tracing import plain_network, trace
from wiring_lightning.files import check_writable, write_file
from wiring_lightning.nn.as_usual import as_usual
from wiring_lightning.nn.checks import check_weights_exist
from wiring_lightning.nn.differences import largest_difference, largest_size
from wiring_lightning.nn.evaluating import evaluating
from wiring_lightning.nn.outputs import find_outputs
from wiring_lightning.nn.own_tensors import with_own_tensors

_WRITERS: dict[str, Callable[[ExportedProgram], bytes]] = {
    ".onnx": onnx_bytes,
    ".pt2": pt2_bytes,
    ".safetensors": safetensors_bytes,
}
SUFFIXES = tuple(_WRITERS)
_BATCHES = (1, 2, 5)  # besides all images at once
# Largest difference as a share of the largest logit. Operators round in another order.
_ROUNDING = 1e-4
_HALF = 16  # the same of a network in half precision, in roundings of one number
_SOLVER = 10  # tolerances by which solutions of other steps may differ
_ALIKE = 0.9  # share of equal classes below which a warning says so


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it compares.

    Args:
        path: the file.
        plain: the compact network that it computes.
        program: the same as operators.
        network: what is in the file, as `load_exported` gives it.
        images: number of images that were compared.
        difference: largest difference between a logit of the file and of the compact network.
        from_source: the same between the file and the network that was given.
        largest: size of the largest finite logit of that network.
        agreement: share of predictions that are those of the network that was given.
    """

    path: Path
    plain: nn.Module
    program: ExportedProgram
    network: nn.Module
    images: int
    difference: float
    from_source: float
    largest: float
    agreement: float


def export_network(network: nn.Module, path: str | Path, images: Tensor) -> Exported:
    """Write the compact form of a trained network into a file, and run it.

    The file is written under another name first, read again and run, with 1, 2, 5 and all images at
    a time. It gets its name only if all logits are those of the network; otherwise an earlier file
    of that name stays as it was.

    Args:
        network: a backbone of this package, or any other module from images to logits, which may
            be in a mapping, an object or a tuple as for the tasks. It is used in evaluation mode
            and left as it is.
        path: where to write; `.onnx`, `.pt2` or `.safetensors`. An existing file is replaced.
        images: `[batch, channels, height, width]` images to compare with, best of real ones, as the
            network was trained with. Their size is that of all images to come; the batch is free.

    Raises:
        ExportError: if the network cannot be exported, or the file computes something else.
        OSError: if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from wiring_lightning.backbones import ResNet
        >>> with TemporaryDirectory() as folder:
        ...     images = torch.randn(8, 3, 8, 8)
        ...     done = export_network(ResNet(8, fan_in=1), f"{folder}/net.pt2", images)
        >>> done.images, done.agreement, done.difference < 1e-5
        (8, 1.0, True)
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise ExportError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    if images.dim() != 4 or len(images) == 0:
        raise ExportError(
            f"images must be [batch, channels, height, width], got {list(images.shape)}."
        )
    check_writable(path)
    with as_usual(network):
        return _export(network, path, images)


def _export(network: nn.Module, path: Path, images: Tensor) -> Exported:
    """As `export_network`, after the checks of what is given."""
    try:
        check_weights_exist(network)
        plain = plain_network(network)
    except ValueError as error:
        raise ExportError(str(error)) from None
    images = images.detach().cpu()
    name = type(network).__name__
    source = _logits(network, images, name)
    rounding = _rounding(network, source)
    check_answers(source, _logits(network, images, name), name, rounding)
    _logits(plain, images[:1], f"The compact form of {name}")  # before the work of tracing
    # A reader of .safetensors has this package, and with it the product of sparse matrices.
    program = trace(plain, images[0], sparse=path.suffix == ".safetensors")
    content = _WRITERS[path.suffix](program)
    unverified = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        write_file(unverified, content)
        loaded = _read_again(unverified, path, images.dtype)
        found, difference = _compare(loaded, plain, images, path, rounding)
        from_source = _check_source(network, found, source, path, rounding)
        agreement = float((found.argmax(1) == source.argmax(1)).double().mean())
        unverified.replace(path)
    finally:
        unverified.unlink(missing_ok=True)
    if agreement < _ALIKE:
        warnings.warn(
            f"{path} gives the class of the {name} for {agreement:.0%} of the images only: their "
            f"largest logits are closer than the difference of {from_source:.1g}, which is that of "
            "rounding.",
            stacklevel=3,
        )
    return Exported(
        path=path,
        plain=plain,
        program=program,
        network=loaded,
        images=len(images),
        difference=difference,
        from_source=from_source,
        largest=largest_size(source),
        agreement=agreement,
    )


def _read_again(unverified: Path, path: Path, dtype: torch.dtype) -> nn.Module:
    """The network in a file that is to get the name `path`, which is in the message."""
    try:
        return load_exported(unverified, trust=True)
    except ExportError as error:
        if unverified.name not in str(error):
            raise
        reason = first_line(error.__cause__ or error)
        # ONNX Runtime lacks some operators in other precisions.
        single = "" if dtype == torch.float32 else ", or convert it and the images with .float()"
        raise ExportError(
            f"{path} was not written: what would be in it cannot be read again ({reason}): export "
            f"the network in another format{single}."
        ) from error


def _compare(
    loaded: nn.Module, plain: nn.Module, images: Tensor, path: Path, rounding: float
) -> tuple[Tensor, float]:
    """The logits of all images, and the largest difference over batches of several sizes.

    What a solver does depends on its whole batch, so both networks see the same batches.
    """
    worst = 0.0
    sizes = [size for size in _BATCHES if size < len(images)]
    for size in [*sizes, len(images)]:
        found = _logits(loaded, images[:size], f"{path} was not written: what would be in it")
        expected = _logits(plain, images[:size], "The compact network")
        if found.shape != expected.shape:
            raise ExportError(
                f"{path} was not written: for {size} images it gives logits of shape "
                f"{list(found.shape)}, and the network {list(expected.shape)}."
            )
        difference = largest_difference(found, expected)
        if not difference <= rounding * largest_size(expected):  # also if it is no number
            half = "convert the network and the images with .float(), which rounds less"
            fault = "please report this as a fault of the exporter"
            raise ExportError(
                f"{path} was not written: for {size} images its logits differ by {difference:g} "
                f"from those of the network; {half if rounding > _ROUNDING else fault}."
            )
        worst = max(worst, difference)
    return found, worst


def _check_source(
    network: nn.Module, found: Tensor, source: Tensor, path: Path, rounding: float
) -> float:
    """The largest difference from the network that was given; an error if it is not rounding."""
    # A solver that sees fewer states takes other steps, within its tolerance.
    graphs = [module for module in network.modules() if isinstance(module, NeuralGraph)]
    solvers = [float(graph.tolerance) for graph in graphs if graph.dynamics == "continuous"]
    difference = largest_difference(found, source)
    if not difference <= max([rounding, *(_SOLVER * t for t in solvers)]) * largest_size(source):
        reason = "whose compact() is not the same function"
        if any(graph.rectify_states for graph in graphs):
            reason = (
                "where with rectify_states they depend on the steps of the solver, and so on the "
                "nodes that compact() leaves out: measure what compact() gives, and export that"
            )
        raise ExportError(
            f"{path} was not written: its logits differ by {difference:g} from those of the "
            f"{type(network).__name__}, {reason}."
        )
    return difference


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor, name: str) -> Tensor:
    """Logits in evaluation mode; every module is in its own mode again afterwards.

    Args:
        network: any module.
        images: what it gets.
        name: what a message calls it.

    Raises:
        ExportError: if it fails, or gives no logits.
    """
    device = next((weight.device for weight in network.parameters()), images.device)
    try:
        with evaluating(network):
            answer = network(with_own_tensors(images.to(device)))
    except Exception as error:  # a network fails in any way on images that it is not made for
        shape = list(images.shape[1:])
        raise ExportError(
            f"{name} cannot compute images of shape {shape}: {first_line(error)}."
        ) from error
    try:
        return find_outputs(answer, name).logits.cpu()
    except ValueError as error:
        raise ExportError(str(error)) from error


def _rounding(network: nn.Module, logits: Tensor) -> float:
    """The largest difference that is rounding, as a share of the largest logit."""
    tensors = (*network.parameters(), *network.buffers(), logits)
    eps = [torch.finfo(tensor.dtype).eps for tensor in tensors if tensor.is_floating_point()]
    return max(_ROUNDING, _HALF * max(eps, default=0.0))
