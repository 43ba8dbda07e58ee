"""An image to count the multiply-adds of a network with."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from wiring_lightning import data as data_modules
from wiring_lightning.cli.messages import note
from wiring_lightning.costs import LayerCost, layer_costs
from wiring_lightning.costs.layers import first_example
from wiring_lightning.wiring import find_wired


def example_image(
    model: LightningModule, size: int | tuple[int, int] | None, data: Any = None
) -> Any:
    """One image for a network; `None` if its size is not known.

    Args:
        model: the task.
        size: side of the image, or height and width, if the user gives it.
        data: what a config says about the data. No data module is built.

    Raises:
        MisconfigurationException: if a size is given that is none.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> model = BoringModel()
        >>> model.backbone = nn.Conv2d(3, 8, 3)
        >>> example_image(model, (5, 7)).shape, example_image(model, None, "Digits").shape
        (torch.Size([1, 3, 5, 7]), torch.Size([1, 3, 8, 8]))
    """
    if size is None and model.example_input_array is not None:
        return first_example(model.example_input_array)
    network = getattr(model, "backbone", model)
    size = size or _size_of_data(data) or getattr(network, "image_size", None)
    if isinstance(size, int):
        size = size, size
    if not isinstance(size, tuple | list) or [type(side) for side in size] != [int, int]:
        return None
    if min(size) < 1:
        raise MisconfigurationException(f"image_size must be at least 1, got {min(size)}.")
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    channels = convolutions[0].in_channels if convolutions else 1
    return torch.zeros(1, channels, *size, device="cpu")


def costs_with(model: LightningModule, example: Any, asked: bool) -> list[LayerCost]:
    """What each layer keeps and costs; without the multiply-adds if the example does not fit.

    Args:
        model: the task.
        example: its input, or `None`.
        asked: whether the user gave the size of the example, so that it must fit.

    Raises:
        MisconfigurationException: if it was asked for and does not fit.
    """
    try:
        return layer_costs(model, example)
    except Exception as error:  # the forward pass is the user's, and may want anything
        shape = list(example.shape) if isinstance(example, Tensor) else "the example"
        reason = str(error).strip().partition("\n")[0]
        message = f"multiply-adds cannot be counted with an input {shape}: {reason}"
        if asked:
            raise MisconfigurationException(message) from error
        note(message if find_wired(model) is not None else f"{message}; give another --image_size")
        return layer_costs(model)


def _size_of_data(data: Any) -> Any:
    """Height and width of the images of a data module of this package; `None` if not known."""
    spec = data if isinstance(data, Mapping) else {"class_path": data}
    name = str(spec.get("class_path")).rpartition(".")[2]
    if name not in data_modules.__all__:
        return None
    kind = getattr(data_modules, name)
    shape = getattr(kind, "image_shape", None)
    if isinstance(shape, tuple):
        return shape[1:]
    arguments = spec.get("init_args")
    given = arguments.get("image_size") if isinstance(arguments, Mapping) else None
    default = inspect.signature(kind).parameters.get("image_size")
    return given or (None if default is None else default.default)
