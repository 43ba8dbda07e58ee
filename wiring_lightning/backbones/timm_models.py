"""The networks of timm, by name: in a config `timm:resnet18` means `timm_models.resnet18`.

Needs timm: `pip install 'wiring_lightning[timm]'`.

Example:
    >>> from wiring_lightning.backbones import timm_models
    >>> network = timm_models.builder("resnet10t")(num_classes=10, in_chans=1)  # doctest: +SKIP
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from wiring_lightning.backbones._builders import (
    Build,
    arguments_of,
    return_class,
    unknown_name,
    with_signature,
)
from wiring_lightning.backbones._downloads import loading

# What nearly all networks of timm take, for those that do not say which class they are.
_COMMON: dict[str, Any] = {
    "num_classes": int, "in_chans": int, "global_pool": str, "drop_rate": float,
    "drop_path_rate": float, "img_size": int | tuple[int, int],
}  # fmt: skip


def names() -> Sequence[str]:
    """The names of all networks that are part of timm, without tags of pretrained weights.

    Raises:
        ImportError: if timm is not installed.
    """
    models: Sequence[str] = _timm().list_models()
    return models


def builder(name: str) -> Build:
    """The function that builds a network of timm from keyword arguments.

    It takes the arguments of the network's class and `pretrained`. Weights are downloaded only with
    `pretrained=True`.

    Args:
        name: such as `"resnet18"`, or with a tag of pretrained weights `"resnet18.a1_in1k"`. No
            name leads to a file or a hub.

    Raises:
        AttributeError: if timm has no such network; the message names near ones.
        ImportError: if timm is not installed.
    """
    base, _, tag = name.partition(".")
    if base not in names():
        raise AttributeError(unknown_name("timm", base, names()))
    network = _network(base)
    if tag and not hasattr(network, tag):
        tags = [f"{base}.{one}" for one in vars(network) if not one.startswith("_")]
        raise AttributeError(unknown_name("timm", name, tags))
    return getattr(network, tag) if tag else network


@cache
def _network(base: str) -> Build:
    """The function that builds a network; it has an attribute for each tag of weights."""
    timm = _timm()
    cls = return_class(timm.models.model_entrypoint(base))
    types = dict(_COMMON)
    if cls is not None:
        types = {name: one.annotation for name, one in arguments_of(cls).items()}

    def make(name: str) -> Build:
        def build(**arguments: Any) -> Any:
            with loading(load_pretrained=(timm.models._builder, lambda *_, **__: None)):
                return timm.create_model(name, **arguments)

        return with_signature((__name__, name), build, {"pretrained": bool, **types})

    network = make(base)
    for name in timm.list_pretrained(f"{base}.*"):  # so that an import path can end in a tag
        if (tag := name.partition(".")[2]).isidentifier():
            setattr(network, tag, make(name))
    return network


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm is not installed: pip install 'wiring_lightning[timm]'") from error
    return timm


def __getattr__(name: str) -> Build:
    if name.startswith("_"):  # what Python itself looks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return builder(name)
