"""The operations of the nodes of a neural graph, each on a single channel."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

FILTER_SIDE = 3  # height and width of a node's filter
FILTER_TAPS = FILTER_SIDE**2
_EPSILON = 1e-5  # added to a variance
_SMALL = 100  # pixels up to which a filter is fastest as a matrix


class NodeOperations(nn.Module):
    """Instance norm and a 3 x 3 filter for every node (DNW, Section 3.1).

    Channels come first here: maps are `[nodes, batch, height, width]`. All weighted edges are then
    one matrix product for the whole batch. On small maps, so are the filters: one batched product
    with a matrix `[pixels, pixels]` for each node.

    Args:
        nodes: number of nodes; each has a filter, a scale and a shift.

    Example:
        >>> nodes, maps = NodeOperations(6), torch.randn(6, 2, 8, 8)
        >>> nodes.normalize(maps).mean((2, 3)).abs().max() < 1e-5
        tensor(True)
        >>> filters = nodes.filters_for(maps)
        >>> filter_maps(maps, filters).shape
        torch.Size([6, 2, 8, 8])
    """

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(nodes))
        self.shift = nn.Parameter(torch.zeros(nodes))
        # As torch initialises a convolution with nine inputs.
        filters = torch.empty(nodes, FILTER_SIDE, FILTER_SIDE)
        self.filters = nn.Parameter(filters.uniform_(-1 / 3, 1 / 3))

    def normalize(self, maps: Tensor, nodes: slice = slice(None)) -> Tensor:
        """Instance norm of the maps of some nodes, with their scales and shifts."""
        return normalize_maps(maps, self.scale[nodes], self.shift[nodes])

    def filters_for(self, maps: Tensor, nodes: slice = slice(None)) -> Tensor:
        """The filters of some nodes as `filter_maps` needs them for maps of this size."""
        filters, (height, width) = self.filters[nodes], maps.shape[2:]
        return filter_matrices(filters, height, width) if height * width <= _SMALL else filters

    @override
    def extra_repr(self) -> str:
        return f"{len(self.scale)}"


def normalize_maps(maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Instance norm of `[nodes, batch, height, width]`, with a scale and a shift per node."""
    if torch.compiler.is_exporting():  # a number of groups would fix the batch
        variance, mean = torch.var_mean(maps, (2, 3), correction=0, keepdim=True)
        normal = (maps - mean) * torch.rsqrt(variance + _EPSILON)
        return normal * scale[:, None, None, None] + shift[:, None, None, None]
    nodes, batch = maps.shape[:2]
    if nodes == 0 or batch == 0:  # torch needs a group
        return maps
    flat = functional.group_norm(
        maps.reshape(1, nodes * batch, *maps.shape[2:]),
        nodes * batch,
        scale.repeat_interleave(batch),
        shift.repeat_interleave(batch),
        _EPSILON,
    )
    return flat.view(maps.shape)


def filter_maps(maps: Tensor, filters: Tensor) -> Tensor:
    """Apply filters to `[nodes, batch, height, width]`, padded with zeros.

    Args:
        maps: the maps.
        filters: of `NodeOperations.filters_for`, for maps of this size.
    """
    if maps.shape[2] * maps.shape[3] <= _SMALL:
        return torch.bmm(maps.flatten(2), filters).view(maps.shape)
    if len(filters) == 0:  # torch needs a group
        return maps
    images = functional.conv2d(
        maps.transpose(0, 1), filters[:, None], padding=FILTER_SIDE // 2, groups=len(filters)
    )
    return images.transpose(0, 1).contiguous()


def filter_matrices(filters: Tensor, height: int, width: int) -> Tensor:
    """Filters `[nodes, 3, 3]` as matrices `[nodes, pixels in, pixels out]` for one size of maps.

    Example:
        >>> sharpen = torch.tensor([[[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]]])
        >>> filter_matrices(sharpen, 1, 3).squeeze(0)
        tensor([[ 5., -1.,  0.],
                [-1.,  5., -1.],
                [ 0., -1.,  5.]])
    """
    pixels = height * width
    single = torch.eye(pixels, dtype=filters.dtype, device=filters.device)
    # [pixels in, taps, pixels out]: 1 where a tap at the output pixel reads the input pixel.
    images = single.view(pixels, 1, height, width)
    reads = functional.unfold(images, FILTER_SIDE, padding=FILTER_SIDE // 2)
    taps = reads.transpose(0, 1).reshape(-1, pixels * pixels)
    return (filters.flatten(1) @ taps).view(-1, pixels, pixels)
