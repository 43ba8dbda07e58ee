"""The pictures of `WiringMonitor`: what each is called, when it applies, and how it is drawn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wiring_lightning.wiring import Wired, Wiring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100  # TensorBoard shows pictures pixel by pixel


@dataclass(frozen=True)
class Subject:
    """What pictures show: a network, and the wiring that it has now."""

    network: Wired
    wiring: Wiring


@dataclass(frozen=True)
class Picture:
    """One kind of picture.

    Args:
        name: its tag in TensorBoard, behind `wiring/`.
        draw: the picture of a subject. It imports what it draws with: matplotlib takes a while.
        applies: whether there is something to draw; always, if not given.
    """

    name: str
    draw: Callable[[Subject], "Figure"]
    applies: Callable[[Subject], bool] | None = None


def draw_pictures(network: Wired, wiring: Wiring) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of every picture that applies.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> network = ResNeXt(depth=11, wiring="full")
        >>> [name for name, _ in draw_pictures(network, network.wiring())]
        ['graph', 'active_branches']
    """
    subject = Subject(network, wiring)
    for picture in PICTURES:
        if picture.applies is None or picture.applies(subject):
            figure = picture.draw(subject)
            figure.set_dpi(_DPI)
            yield picture.name, figure


def _graph(subject: Subject) -> "Figure":
    from wiring_lightning.plots import draw_architecture

    return draw_architecture(subject.wiring)


def _in_rows(subject: Subject) -> bool:
    """Whether modules stand side by side in rows, and not in a fabric."""
    from wiring_lightning.plots import is_fabric

    return not is_fabric(subject.wiring)


def _active_nodes(subject: Subject) -> "Figure":
    from wiring_lightning.plots import draw_active_nodes

    return draw_active_nodes(subject.wiring)


def _has_channels(subject: Subject) -> bool:
    """Whether nodes are single channels, thousands of them."""
    from wiring_lightning.plots import is_channel_graph

    return is_channel_graph(subject.wiring)


def _degrees(subject: Subject) -> "Figure":
    from wiring_lightning.plots import draw_degrees

    return draw_degrees(subject.wiring)


def _learns(subject: Subject) -> bool:
    rows = _in_rows(subject) and not _has_channels(subject)
    return rows and bool(subject.wiring.learnable.any())


def _scores(subject: Subject) -> "Figure":
    from wiring_lightning.plots import draw_scores

    return draw_scores(subject.wiring)


def _concatenates(subject: Subject) -> bool:
    from wiring_lightning.plots import ReusesFeatures

    return isinstance(subject.network, ReusesFeatures)


def _feature_reuse(subject: Subject) -> "Figure":
    from wiring_lightning.plots import ReusesFeatures, draw_feature_reuse

    assert isinstance(subject.network, ReusesFeatures)
    return draw_feature_reuse(subject.network.feature_reuse())


PICTURES = (
    Picture("graph", _graph),
    Picture("active_branches", _active_nodes, _in_rows),
    Picture("scores", _scores, _learns),
    Picture("degrees", _degrees, _has_channels),
    Picture("feature_reuse", _feature_reuse, _concatenates),
)
