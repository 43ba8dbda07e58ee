"""A convolution whose weight is stored as CSR."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from wiring_lightning.functional.autocast import autocast_type, without_autocast
from wiring_lightning.nn.csr import as_csr, copy_with_csr, learns
from wiring_lightning.wiring import StoredLayer


class SparseConv2d(StoredLayer):
    """A convolution for evaluation whose weight is stored as CSR, without its zeros.

    For each image, the weight is multiplied with a matrix that has the inputs of one position of
    the output in each column. For 1 x 1 convolutions that is the image itself; for others it is
    what `torch.nn.functional.unfold` makes, which has each pixel once for each place in the kernel.
    Under autocast it computes in the precision of its weight.

    Args:
        layer: the layer whose weight, bias and geometry are taken.

    Raises:
        ValueError: if the layer has groups, pads with other things than zeros, or pads one side
            more than the other (`padding="same"` with an even kernel).

    Example:
        >>> layer = nn.Conv2d(8, 4, kernel_size=3, stride=2, padding=1)
        >>> _ = layer.weight.data[:, 1:].zero_()
        >>> sparse, images = SparseConv2d(layer), torch.randn(2, 8, 6, 6)
        >>> sparse.weight.values().numel(), torch.allclose(sparse(images), layer(images), atol=1e-6)
        (36, True)
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        if not self.takes(layer):
            raise ValueError(
                "SparseConv2d takes a convolution with one group and the same number of zeros on "
                f"both sides, got {layer}."
            )
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size = _pair(layer.kernel_size)
        self.stride = _pair(layer.stride)
        self.dilation = _pair(layer.dilation)
        self.padding = _padding(layer)
        self._learned = learns(layer.weight), learns(layer.bias)  # for `dense`
        self.register_buffer("weight", as_csr(layer.weight.flatten(1)))
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)

    @staticmethod
    def takes(layer: nn.Conv2d) -> bool:
        """Whether it can compute what this convolution computes.

        Example:
            >>> SparseConv2d.takes(nn.Conv2d(4, 4, 3, groups=2))
            False
        """
        sides = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        even = layer.padding != "same" or all(side % 2 == 0 for side in sides)
        return layer.groups == 1 and layer.padding_mode == "zeros" and even

    @override
    def forward(self, input: Tensor) -> Tensor:
        """`[batch, in_channels, height, width]` -> `[batch, out_channels, height', width']`.

        An image alone, `[in_channels, height, width]`, gives `[out_channels, height', width']`.
        """
        if autocast_type(input.device) is not None:  # torch has no CSR product in bfloat16 on a CPU
            with without_autocast(input.device):
                return self.forward(input.to(self.weight.dtype))
        if input.dim() == 3:
            return self.forward(input[None])[0]
        batch, _, height, width = input.shape
        rows, columns = self._length(height, 0), self._length(width, 1)
        outputs = input.new_empty(batch, len(self.weight), rows * columns)
        for number, image in enumerate(input):
            patches = self._patches(image)
            if torch.is_grad_enabled() and patches.requires_grad:  # autograd takes no `out`
                outputs[number] = self.weight @ patches
            else:
                torch.mm(self.weight, patches, out=outputs[number])
        if self.bias is not None:
            outputs += self.bias[:, None]
        return outputs.view(batch, len(self.weight), rows, columns)

    def _length(self, length: int, axis: int) -> int:
        """Height or width of the output."""
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        return (length + 2 * self.padding[axis] - reach) // self.stride[axis] + 1

    def _patches(self, image: Tensor) -> Tensor:
        """`[in_channels * kernel, positions]` what each position of the output reads."""
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            down, right = self.stride
            return image[:, ::down, ::right].flatten(1)
        return functional.unfold(
            image[None], self.kernel_size, self.dilation, self.padding, self.stride
        )[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseConv2d":
        return copy_with_csr(self, memo)

    @override
    def dense(self) -> nn.Conv2d:
        """The same layer as a plain one, such as for a file that other programs read."""
        layer = nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
            self.dilation, bias=self.bias is not None, device="meta",
        )  # fmt: skip
        weight_learned, bias_learned = self._learned
        weight = self.weight.to_dense().view(layer.weight.shape)
        layer.weight = nn.Parameter(weight, weight_learned)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.clone(), bias_learned)
        return layer.train(self.training)

    @override
    def extra_repr(self) -> str:
        return (
            f"{self.in_channels} -> {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"{self.weight.values().numel():,} weights"
        )


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    first, second = numbers
    return first, second


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    """The zeros on each side, above and below, and left and right."""
    if not isinstance(layer.padding, str):
        return _pair(layer.padding)
    if layer.padding == "valid":
        return 0, 0
    kernel, dilation = layer.kernel_size, layer.dilation
    return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2
