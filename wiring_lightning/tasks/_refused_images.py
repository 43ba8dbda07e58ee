"""What to do when a network cannot compute the images of a batch."""

import re
import sys
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn

from wiring_lightning._checks import has_foreign_code


def explained(error: Exception, network: nn.Module, images: Tensor) -> Exception | None:
    """The error to raise in the place of one of a network's forward; `None` to leave that one.

    The network of an installed library, such as timm, knows nothing of the data, so its errors get
    a sentence about the images. What comes out of code of the user's own keeps its traceback.

    Args:
        error: what the network raised.
        network: the network.
        images: what it was given.

    Example:
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> try:
        ...     nn.Flatten(9)(images)
        ... except IndexError as error:
        ...     print(str(explained(error, nn.Flatten(9), images))[:57])
        Flatten cannot compute images of shape [3, 8, 8]: Dimensi
    """
    text = str(error)
    if images.dtype == torch.uint8:
        return ValueError(
            "The images are bytes: give the trainer the data module itself (datamodule=data), "
            "which normalises them, not its loaders."
        )
    if len(images) == 1 and "Expected more than 1 value per channel" in text:
        return ValueError(
            "A training batch holds one image, too few for batch norm: leave out a last batch that "
            "is not full (drop_last=True of the data, --data.drop_last=true), or choose another "
            "batch_size."
        )
    channels = images.shape[1]
    if wanted := re.search(rf"to have (\d+) channels, but got {channels} ", text):
        return ValueError(
            f"The images have {channels} channels, but the backbone takes {wanted[1]}: set "
            f"in_channels={channels} of the backbone (in_chans={channels} of one of timm or "
            "torchvision)."
        )
    of_device = isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)
    if of_device or not _is_installed(type(network)) or has_foreign_code(error):
        return None
    # A RuntimeError: Lightning's search for a batch size looks for one about memory.
    reason = text.strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return RuntimeError(
        f"{type(network).__name__} cannot compute images of shape {list(images.shape[1:])}: "
        f"{reason}."
    )


def _is_installed(network: type[nn.Module]) -> bool:
    """Whether it is a class of a library, and not of this package or of the user's own code."""
    file = getattr(sys.modules.get(network.__module__), "__file__", None)
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    return (
        file is not None
        and not network.__module__.startswith("wiring_lightning")
        and any(Path(file).is_relative_to(folder) for folder in folders)
    )
