"""What a task asks of its backbone before it trains it."""

from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from wiring_lightning.nn import find_bernoulli_gates


def check_connected(backbone: nn.Module) -> None:
    """Refuse a fabric of given edges that has no path from its input to its output.

    Args:
        backbone: any network. A fabric may be built of any edges, but no run makes sense then.

    Raises:
        MisconfigurationException: if no image would reach the classifier.
    """
    if find_bernoulli_gates(backbone) or any(weight.is_meta for weight in backbone.parameters()):
        return  # it is being searched for, or holds no values yet
    if getattr(backbone, "architecture_names", None) == []:
        raise MisconfigurationException(
            "The backbone's architecture does not connect the input to the output: name the edges "
            "of at least one path."
        )


def check_image_size(backbone: nn.Module, datamodule: Any) -> None:
    """Compare the size of the images with the `image_size` of a backbone.

    Its costs, and so the budget of a search, follow from that size.

    Args:
        backbone: any network.
        datamodule: the trainer's, or `None`.

    Raises:
        MisconfigurationException: if the backbone was given another size. One that has only assumed
            it leads to a warning.
    """
    told = getattr(backbone, "image_size", None)
    shape = getattr(datamodule, "image_shape", None)
    if not isinstance(told, int) or shape is None or tuple(shape[1:]) == (told, told):
        return
    _, height, width = shape
    hint = f"set image_size={height} of the backbone"
    if height != width:
        hint = "costs are those of square images, so use square ones"
    message = (
        f"The images have {height} x {width} pixels, but the backbone counts its costs for "
        f"{told} x {told}: {hint}."
    )
    if not getattr(backbone, "assumes_image_size", False):
        raise MisconfigurationException(message)
    rank_zero_warn(message)  # nobody said a wrong size, and the training itself is not concerned


def output_width(backbone: nn.Module, last_layer: type[nn.Linear] | type[nn.Conv2d]) -> int:
    """Number of classes of a backbone.

    Args:
        backbone: with an attribute `num_classes`, or `config.num_labels` as the networks of
            transformers have it, or a last layer that tells it.
        last_layer: class of the layer that computes the logits.

    Raises:
        MisconfigurationException: if none of these tells it.

    Example:
        >>> output_width(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Linear)
        3
    """
    settings = getattr(backbone, "config", None)  # of the networks of transformers
    for owner, name in ((backbone, "num_classes"), (settings, "num_labels")):
        if isinstance(declared := getattr(owner, name, None), int):
            return declared
    layers = [module for module in backbone.modules() if isinstance(module, last_layer)]
    if not layers:
        kind = "linear" if last_layer is nn.Linear else "convolution"
        raise MisconfigurationException(
            f"{type(backbone).__name__} has neither a `num_classes` attribute nor a {kind} layer "
            "to read the number of classes from; add the attribute."
        )
    last = layers[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels
