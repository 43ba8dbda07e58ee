"""The picture of how dense layers are."""

import pytest
from torch import nn

from wiring_lightning.costs import layer_costs
from wiring_lightning.plots import draw_densities, style


def network(*kept: int) -> nn.Sequential:
    """Layers of 100 weights, of which so many are there."""
    layers = nn.Sequential(*(nn.Linear(10, 10) for _ in kept))
    for layer, k in zip(layers, kept, strict=True):
        layer.weight.data.fill_(1).view(-1)[k:] = 0
    return layers


def test_a_bar_is_the_density_of_a_layer_and_the_line_that_of_all() -> None:
    figure = draw_densities(layer_costs(network(100, 20, 60)))
    (axes,) = figure.axes
    bars = axes.containers[0]
    assert [bar.get_height() for bar in bars] == [1.0, 0.2, 0.6]
    assert axes.lines[0].get_ydata() == pytest.approx([0.6, 0.6])
    colors = [style.PRUNED, style.LIVE, style.LIVE]
    assert [bar.get_facecolor() for bar in bars] == [pytest.approx(rgb(c)) for c in colors]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_yscale() == "linear"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["sparse", "dense", "all together"]


def rgb(color: str) -> tuple[float, ...]:
    return (*(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)


@pytest.mark.parametrize(("kept", "scale"), [((1, 50), "log"), ((0, 50), "linear")])
def test_very_sparse_layers_can_still_be_seen(kept: tuple[int, ...], scale: str) -> None:
    (axes,) = draw_densities(layer_costs(network(*kept))).axes
    assert axes.get_yscale() == scale
    assert axes.get_ylim()[0] < min(k for k in kept if k) / 100


def test_many_layers_are_numbered_instead_of_named() -> None:
    (axes,) = draw_densities(layer_costs(network(*[50] * 80)), title="deep").axes
    assert axes.get_xlabel() == "layer, from the input on"
    assert axes.get_title(loc="left") == "deep"


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer"):
        draw_densities([])
