"""A 1 x 1 convolution with a sparse weight matrix."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import sparse_product
from wiring_lightning.functional.autocast import autocast_type
from wiring_lightning.functional.transforms import is_transformed
from wiring_lightning.nn.folding import scale_and_shift


class SparseEdges(nn.Module):
    """A 1 x 1 convolution with k weights that takes k multiply-adds per pixel.

    The edges are fixed; their weights can be trained.

    Args:
        row: `[k]` number of the receiver.
        column: `[k]` number of the sender; no edge twice.
        values: `[k]` the weights.
        receivers: number of receivers; those without an edge receive zeros.
        senders: number of senders.
        learned: whether the edges were learned.
        bias: `[receivers]`, added to what they receive; none if not given.

    Raises:
        ValueError: if the columns have different lengths, or a node does not exist.

    Example:
        >>> edges = SparseEdges(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.ones(2), 2, 3)
        >>> edges(torch.arange(3.0).view(1, 3, 1, 1)).flatten()
        tensor([2., 0.], grad_fn=...)
    """

    row: Tensor
    column: Tensor

    def __init__(
        self,
        row: Tensor,
        column: Tensor,
        values: Tensor,
        receivers: int,
        senders: int,
        learned: bool = True,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not len(row) == len(column) == len(values):
            raise ValueError(
                f"an edge has a row, a column and a value, got {len(row)}, {len(column)} and "
                f"{len(values)} of them."
            )
        for places, count in ((row, receivers), (column, senders)):
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < count:
                raise ValueError(f"an edge leads to or from a node that is not below {count}.")
        order = (row * senders + column).argsort()
        self.receivers = receivers
        self.senders = senders
        self.learned = learned
        self.register_buffer("row", row[order])
        self.register_buffer("column", column[order])
        self.values = nn.Parameter(values.detach()[order].clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @torch.no_grad()
    def normalized(self, norm: nn.Module) -> "SparseEdges":
        """The edges with the batch norm that follows them, as evaluation mode computes it."""
        scale, shift = scale_and_shift(norm)
        if self.bias is not None:
            shift = shift + scale * self.bias
        values = self.values * scale[self.row]
        return SparseEdges(
            self.row, self.column, values, self.receivers, self.senders, self.learned, shift
        )

    def matrix(self) -> Tensor:
        """`[receivers, senders]` the weights, and zeros where there is no edge."""
        empty = self.values.new_zeros(self.receivers, self.senders)
        return empty.index_put((self.row, self.column), self.values)

    @override
    def forward(self, sent: Tensor) -> Tensor:
        """`[batch, senders, height, width]` -> `[batch, receivers, height, width]`."""
        batch, _, height, width = sent.shape
        if len(self.row) == 0:  # perhaps no node is there at all, and ONNX reshapes to no zeros
            nothing = sent.new_zeros(batch, self.receivers, height, width)
            return nothing if self.bias is None else nothing + self.bias[:, None, None]
        maps = sent.transpose(0, 1).reshape(self.senders, batch * height * width)
        if is_transformed():
            received = self.matrix() @ maps
        else:
            received = sparse_product(self.values, self.row, self.column, maps, self.receivers)
        if self.bias is not None:
            received = received + self.bias[:, None]
        if (number := autocast_type(sent.device)) is not None:  # as a convolution gives it
            received = received.to(number)
        return received.view(self.receivers, batch, height, width).transpose(0, 1)

    @override
    def extra_repr(self) -> str:
        return f"{self.receivers} x {self.senders}, edges={len(self.row)}"
