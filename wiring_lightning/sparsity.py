"""How sparse the layers of a network are: what is reported where there is no wiring."""

from typing import Any

from torch import Tensor, nn


def summarize_weights(module: nn.Module) -> dict[str, Any]:
    """Parameters of a network, and how many weights of each layer are not zero.

    A layer is a module whose own `weight` connects inputs to outputs: it has at least two axes.

    Returns:
        Plain values: `params` and `weights` with their `total` and `nonzero`, and `layers` with the
        same by the name of the layer.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> summary = summarize_weights(nn.Sequential(layer))
        >>> summary["params"]["total"], summary["layers"]
        (10, {'0': {'total': 8, 'nonzero': 4}})
    """
    layers = {}
    for name, layer in module.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() >= 2:
            layers[name] = {"total": weight.numel(), "nonzero": int(weight.count_nonzero())}
    parameters = list(module.parameters())
    return {
        "params": {
            "total": sum(parameter.numel() for parameter in parameters),
            "nonzero": sum(int(parameter.count_nonzero()) for parameter in parameters),
        },
        "weights": {
            key: sum(layer[key] for layer in layers.values()) for key in ("total", "nonzero")
        },
        "layers": layers,
    }


def weight_rows(module: nn.Module) -> list[tuple[str, str]]:
    """The rows of the table that a person reads; layers are listed if some weights are zero.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> layer.weight.data[0] = 0
        >>> weight_rows(nn.Sequential(layer))[1:]
        [('weights', '8, 4 of them not zero (50.0%)'), ('kept by layer', '0 50.0%')]
    """
    summary = summarize_weights(module)
    weights = summary["weights"]
    rows = [("parameters", f"{summary['params']['total']:,}")]
    if weights["total"]:
        share = weights["nonzero"] / weights["total"]
        text = f"{weights['total']:,}, {weights['nonzero']:,} of them not zero ({share:.1%})"
        rows.append(("weights", text))
    if weights["nonzero"] < weights["total"]:
        shares = [
            f"{name} {layer['nonzero'] / layer['total']:.1%}"
            for name, layer in summary["layers"].items()
        ]
        rows.append(("kept by layer", ", ".join(shares)))
    return rows
