"""Networks of timm and torchvision in configs: `timm:resnet18`, `torchvision:resnet18`."""

from importlib import import_module

_HOMES = {
    "timm": "wiring_lightning.backbones.timm_models",
    "torchvision": "wiring_lightning.backbones.torchvision_models",
}
# Where the libraries' own functions are found.
_PATHS = {"timm.": "timm", "torchvision.models.": "torchvision"}


def network_path(name: str) -> str | None:
    """The import path of the function that builds a network of timm or torchvision.

    Only what these libraries list as their networks has one, whatever the name looks like.

    Args:
        name: such as `timm:resnet18`, `timm.models.resnet18` or
            `wiring_lightning.backbones.timm_models.resnet18`.

    Returns:
        The last of these; `None` if the name is of another kind.

    Raises:
        ValueError: if the library has no such network, or is not installed.

    Example:
        >>> network_path("torchvision:resnet18")
        'wiring_lightning.backbones.torchvision_models.resnet18'
        >>> network_path("torchvision.models.resnet18")
        'wiring_lightning.backbones.torchvision_models.resnet18'
        >>> network_path("torch.nn.Linear")
        >>> network_path("torchvision:resnet81")
        Traceback (most recent call last):
        ValueError: torchvision has no network 'resnet81'; near ones are resnet18, ...
    """
    library, colon, network = name.partition(":")
    if colon and library in _HOMES:
        return _checked(library, network)
    for library, home in _HOMES.items():
        if name.startswith(f"{home}."):
            return _checked(library, name.removeprefix(f"{home}."))
    for prefix, library in _PATHS.items():
        last = name.rpartition(".")[2]
        if name.startswith(prefix) and last in _names(library):
            return _checked(library, last)
    return None


def library_of(path: str) -> str | None:
    """The library of a network by its import path; `None` if it is no other library's.

    Example:
        >>> library_of("wiring_lightning.backbones.timm_models.resnet18")
        'timm'
        >>> library_of("wiring_lightning.backbones.ResNet")
    """
    homes = (library for library, home in _HOMES.items() if path.startswith(f"{home}."))
    return next(homes, None)


def _names(library: str) -> frozenset[str]:
    try:
        return frozenset(import_module(_HOMES[library]).names())
    except ImportError:
        return frozenset()  # the class path itself says what is missing


def _checked(library: str, network: str) -> str:
    home = import_module(_HOMES[library])
    try:
        home.builder(network)
    except (AttributeError, ImportError) as error:
        raise ValueError(str(error)) from error
    return f"{home.__name__}.{network}"
