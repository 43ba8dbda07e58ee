"""What a network sees of a photograph: a random part of it in training, the centre otherwise."""

from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from typing_extensions import override


class View(Protocol):
    """Turns an image of any size into the pixels of a sample.

    As in :class:`CropFlip`, drawing random numbers is kept apart from using them.
    """

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw random numbers for N images: any number of tensors, int64 of shape [N]."""

    def __call__(self, image: Image, *noise: int) -> Tensor:
        """Return the pixels, uint8 of shape [3, H, W], from an image and its random numbers."""


class RandomView(View):
    """A random part of the image, resized, and mirrored half of the time.

    The part has 8% to 100% of the image's area and sides in a ratio of 3:4 to 4:3, the usual
    augmentation on ImageNet.

    Args:
        size: Height and width of the result in pixels.
    """

    def __init__(self, size: int) -> None:
        # Not at the top of the file: importing torchvision takes about a second.
        from torchvision import transforms

        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
            ]
        )

    @override
    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw a seed for each image."""
        return (torch.randint(2**32, (num_samples,), generator=generator),)

    @override
    def __call__(self, image: Image, *noise: int) -> Tensor:
        """Return the part that belongs to the seed."""
        (seed,) = noise
        # torchvision draws from torch's global generator. `torch.manual_seed` would also reset
        # the generators of the GPUs, and nobody would set them back.
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(seed)
            return self._transform(image)


class CentreView(View):
    """The square in the middle of the resized image.

    Args:
        resize: Length of the image's shorter side in pixels, before the cut.
        size: Height and width of the result in pixels.
    """

    def __init__(self, resize: int, size: int) -> None:
        from torchvision import transforms

        self._transform = transforms.Compose(
            [
                transforms.Resize(resize),
                transforms.CenterCrop(size),
                transforms.PILToTensor(),
            ]
        )

    @override
    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw nothing."""
        return ()

    @override
    def __call__(self, image: Image, *noise: int) -> Tensor:
        """Return the square."""
        return self._transform(image)
