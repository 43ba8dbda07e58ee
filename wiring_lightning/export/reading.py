"""Reading exported networks."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.export.described_network import DescribedNetwork
from wiring_lightning.export.errors import ExportError, first_line, needs_extra
from wiring_lightning.export.formats import KEY, checksum
from wiring_lightning.export.image_check import check_images, dtype_of_images
from wiring_lightning.nn.as_usual import as_usual

_TRUST = (
    "a .pt2 file can run code when it is read: if you trust where it comes from, read it with "
    "trust=True; .safetensors and .onnx files need no trust"
)
_ONNX_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(bool)": torch.bool,
    "tensor(int8)": torch.int8,
    "tensor(int16)": torch.int16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(uint8)": torch.uint8,
    "tensor(uint16)": torch.uint16,
    "tensor(uint32)": torch.uint32,
    "tensor(uint64)": torch.uint64,
}


@as_usual()
def load_exported(path: str | Path, trust: bool = False) -> nn.Module:
    """Read a network that `wiring export` or `export_network` wrote; no callback is needed.

    Args:
        path: the file, `.safetensors`, `.onnx` or `.pt2`.
        trust: whether to read a `.pt2` file, which could run code of whoever wrote it.

    Returns:
        A module from images `[batch, channels, height, width]` to logits, in evaluation mode. That
        of a `.safetensors` file has the weights as parameters; an `.onnx` file runs on the CPU, in
        ONNX Runtime, and has no gradients.

    Raises:
        ExportError: if there is no such file, it cannot be read, or it is not trusted.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from wiring_lightning.export import export_network
        >>> images = torch.randn(8, 3, 32, 32)
        >>> trained = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        >>> with TemporaryDirectory() as folder:
        ...     _ = export_network(trained, f"{folder}/net.safetensors", images)
        ...     network = load_exported(f"{folder}/net.safetensors")
        >>> network(images).shape
        torch.Size([8, 10])
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".onnx": OnnxNetwork, ".pt2": ProgramNetwork}
    if path.suffix not in readers:
        raise ExportError(
            f"{path} is no exported network: it must end in {', '.join(readers)}; a checkpoint of "
            "training is loaded with wl.load(path)."
        )
    if not path.is_file():
        raise ExportError(f"There is no file {path}: check the path.")
    if path.suffix == ".pt2" and not trust:
        raise ExportError(f"{path} is not read: {_TRUST}.")
    try:
        return readers[path.suffix](path).eval()
    except ExportError as error:
        if "pip install" in str(error):
            raise
        raise ExportError(f"{path} cannot be read: {error}.") from error
    except Exception as error:  # bytes of any kind make a reader fail in any way
        raise ExportError(
            f"{path} is damaged or is none ({first_line(error)}): export the network again."
        ) from error


def _read_safetensors(path: Path) -> nn.Module:
    with needs_extra("Reading .safetensors"):
        from safetensors import safe_open
    with safe_open(str(path), framework="pt") as file:
        description = json.loads((file.metadata() or {}).get(KEY, "null"))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    network = DescribedNetwork(description, weights)
    if description.get("sha256") != checksum(weights):
        raise ExportError("its weights are damaged (the checksum is wrong): export it again")
    return network


class ProgramNetwork(nn.Module):
    """The program of a `.pt2` file as a module that `eval()` and `train()` leave as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ExportError(f"the checksum of {damaged} is wrong: export it again")
        program = torch.export.load(path)
        (images,) = program.graph_signature.user_inputs
        (node,) = (n for n in program.graph.nodes if n.name == images)
        value = node.meta["val"]
        self._image_shape, self._image_dtype = tuple(value.shape[1:]), value.dtype
        self.program = program.module()

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> the logits of the exported network.

        Raises:
            ValueError: if the images have another shape than those of the network, or a dtype that
                it cannot compute.
        """
        check_images(images, self._image_shape)
        try:
            logits: Tensor = self.program(images)
        except RuntimeError:  # such as of a product of two dtypes; what works needs no check
            check_images(images, self._image_shape, dtype_of_images(self._image_dtype, self))
            raise
        return logits

    @override
    def train(self, mode: bool = True) -> "ProgramNetwork":
        """A program has one mode, that of evaluation."""
        self.training = mode
        return self


class OnnxNetwork(nn.Module):
    """The graph of an `.onnx` file, run by ONNX Runtime on the CPU.

    It uses as many threads as torch does.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with needs_extra("Running .onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self._session: Any = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0]

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> the logits of the exported network.

        Raises:
            ValueError: if the images have another shape or dtype than those of the network.
        """
        check_images(images, self._input.shape[1:], _ONNX_TYPES.get(self._input.type))
        (logits,) = self._session.run(None, {self._input.name: images.detach().cpu().numpy()})
        return torch.from_numpy(logits).to(images.device)
