"""Real images to compare an exported network with."""

from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.checkpoints import read_weights
from wiring_lightning.cli.runs import Run, RunError, build_part
from wiring_lightning.cli.trust import data_config
from wiring_lightning.data._resumable import ResumableDataModule

COUNT = 64
Shape = tuple[int, int, int]


def image_shape(network: nn.Module) -> Shape:
    """Channels, height and width of the images of a network.

    Raises:
        RunError: if the network does not tell them.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> image_shape(ResNeXt(depth=11, in_channels=1, image_size=8))
        (1, 8, 8)
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    channels = getattr(network, "in_channels", layers[0].in_channels if layers else None)
    side = getattr(network, "image_size", None)
    if not isinstance(channels, int) or not isinstance(side, int):
        raise RunError(
            f"{type(network).__name__} does not tell the size of its images: give it, such as "
            "--image 3 32 32."
        )
    return channels, side, side


def digit_images(shape: Shape, count: int = COUNT) -> Tensor:
    """`[count, *shape]` scikit-learn's handwritten digits, scaled to a size and normalised.

    One or three channels show one digit; more channels show a digit each.

    Example:
        >>> images = digit_images((3, 32, 32), count=10)
        >>> images.shape, bool(images.mean().abs() < 0.1)
        (torch.Size([10, 3, 32, 32]), True)
    """
    from sklearn.datasets import load_digits

    digits = torch.as_tensor(load_digits().images, dtype=torch.float32, device="cpu")
    digits = ((digits - digits.mean()) / digits.std()).unsqueeze(1)
    channels, height, width = shape
    each = 1 if channels in (1, 3) else channels
    numbers = torch.arange(count * each, device="cpu") % len(digits)
    images = functional.interpolate(digits[numbers], (height, width), mode="bilinear")
    return images.view(count, each, height, width).expand(count, channels, height, width)


def run_images(run: Run, count: int = COUNT, checkpoint: Path | None = None) -> Tensor:
    """Test images of the data module that a run's config names, as a network gets them.

    A split that was drawn is that of a checkpoint.

    Args:
        run: as of the fit that wrote the checkpoint.
        count: of images, at most.
        checkpoint: by default the last one of the run.

    Raises:
        RunError: if the config names none, or there is no checkpoint.
        UntrustedError: if it is not of this package, and not trusted.
    """
    file = run.file
    if not run.config.get("data"):
        raise RunError(f"{file} names no data: leave --data out.")
    spec = data_config(run.config["data"], run.trust, str(file))
    data = build_part(LightningDataModule, "data", spec, f"{file} describes no data")
    data.prepare_data()
    data.setup("test")
    if isinstance(data, ResumableDataModule):
        path = checkpoint or run.checkpoint()
        state = read_weights(path).get(type(data).__qualname__, {})
        data.load_state_dict(state)  # the split of the run
        data.warn_if_drawn_anew(path)
    parts: list[Tensor] = []
    try:
        for batch in data.test_dataloader():
            images, _ = data.on_after_batch_transfer(batch, 0)
            parts.append(images)
            if sum(map(len, parts)) >= count:
                break
    finally:
        data.teardown("test")
    return torch.cat(parts)[:count]
