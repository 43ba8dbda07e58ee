"""Images beside their true and predicted masks."""

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from wiring_lightning.plots import style

_COLORS = (style.LEARNED, *style.SERIES[1:], "#F0E442")
_HEIGHT = 1.7  # of one image, in inches


def draw_masks(
    images: Tensor,
    truth: Tensor,
    prediction: Tensor,
    class_names: Sequence[str],
    ignore_index: int | None = None,
) -> Figure:
    """Draw one row per example: the image, its true mask and the predicted one.

    Args:
        images: `[N, channels, height, width]`, of any range; the range of each image is scaled to
            [0, 1]. The first three channels are red, green and blue; of fewer than three the first
            one is drawn, in grey.
        truth: `[N, H, W]` true class of each pixel; masks may be smaller than the images.
        prediction: `[N, H, W]` predicted class of each pixel.
        class_names: the names for the legend, in the order of the classes.
        ignore_index: the number of pixels without a class, drawn in light grey.

    Raises:
        ValueError: if the shapes do not match.

    Example:
        >>> masks = torch.zeros(2, 8, 6).long()
        >>> figure = draw_masks(torch.rand(2, 3, 8, 6), masks, masks, ["road", "sky"])
        >>> len(figure.axes)
        6
    """
    count, channels, height, width = images.shape
    if truth.shape != prediction.shape or truth.dim() != 3 or len(truth) != count:
        raise ValueError(
            f"Images of shape {list(images.shape)} need two masks of one shape [{count}, height, "
            f"width], got {list(truth.shape)} and {list(prediction.shape)}."
        )
    colors = _class_colors(len(class_names))
    images = images[:, : 3 if channels >= 3 else 1].float()
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    shown = ((images - low) / (high - low).clamp_min(1e-12)).expand(-1, 3, -1, -1)
    rows = zip(
        shown.permute(0, 2, 3, 1),
        _painted(truth, colors, ignore_index),
        _painted(prediction, colors, ignore_index),
        strict=True,
    )
    figure = style.new_figure(3 * _HEIGHT * width / height, count * _HEIGHT + 0.6)
    grid = figure.subplots(count, 3, squeeze=False)
    for axes, pictures in zip(grid, rows, strict=True):
        for axis, picture in zip(axes, pictures, strict=True):
            axis.imshow(picture.numpy(), interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(grid[0], ("image", "truth", "prediction"), strict=True):
        axis.set_title(title, size=9, color=style.INK)
    named = zip(class_names, colors.tolist(), strict=True)
    patches = [Patch(facecolor=color, label=name) for name, color in named]
    style.legend_below(figure, patches, columns=min(len(patches), 4))
    return figure


def _painted(masks: Tensor, colors: Tensor, ignore_index: int | None) -> Tensor:
    """`[N, H, W, 3]` masks in colours."""
    nowhere = colors.new_tensor(to_rgb(style.DEAD))
    known = (masks >= 0) & (masks < len(colors))
    if ignore_index is not None:
        known &= masks != ignore_index
    painted = colors[torch.where(known, masks, 0)]
    return torch.where(known[..., None], painted, nowhere)


def _class_colors(count: int) -> Tensor:
    """`[count, 3]` distinct colours; after the first few, hues by the golden ratio."""
    colors = [to_rgb(color) for color in _COLORS[:count]]
    colors += [hsv_to_rgb(0.618 * rank % 1, 0.65, 0.85) for rank in range(count - len(colors))]
    return torch.tensor(colors, device="cpu")
