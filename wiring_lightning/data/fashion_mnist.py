"""Fashion-MNIST: grey pictures of clothes, in the size of CIFAR's images."""

from typing import ClassVar

from torch.nn.functional import pad
from typing_extensions import override

from wiring_lightning.data._torchvision import TorchvisionDataModule
from wiring_lightning.data.augment import CropFlip
from wiring_lightning.data.in_memory import Split


class FashionMNIST(TorchvisionDataModule):
    """Fashion-MNIST: 60,000 training and 10,000 test images in 10 classes.

    The 28x28 images are padded by 2 black pixels, the colour of their background, to CIFAR's 32x32;
    the loaders yield [1, 32, 32].

    The default normalization is 'pixel_mean' because of the augmentation: the mean image is black
    at its border, so the padding of shifted images looks like the background. With
    'channel_mean_std' the padding is grey.

    The files are in the folder ``FashionMNIST/raw`` in ``root``.

    Example:
        >>> FashionMNIST().image_shape
        (1, 32, 32)
    """

    num_classes: ClassVar[int] = 10
    image_shape: ClassVar[tuple[int, int, int]] = (1, 32, 32)
    crop_flip: ClassVar[CropFlip] = CropFlip(padding=4)
    dataset_name: ClassVar[str] = "FashionMNIST"
    folder: ClassVar[str] = "FashionMNIST/raw"

    @override
    def read(self, train: bool) -> Split:
        """Read the training or the test images and frame them to 32x32."""
        images, labels = super().read(train)
        return pad(images, [2] * 4), labels
