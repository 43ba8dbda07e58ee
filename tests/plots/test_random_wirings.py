"""What random wirings look like, against all wirings of a small network."""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from tests.plots.wirings import chain, learned, live_nodes, skipping
from wiring_lightning.backbones import ConvFabric, NeuralGraph, ResNet
from wiring_lightning.plots import draw_active_by_depth, draw_active_nodes, live_of_random_wirings
from wiring_lightning.wiring import Wiring


def all_wirings(wiring: Wiring) -> Tensor:
    """`[wirings, modules]` live nodes by networkx, for every choice that the targets have."""
    choices = []
    for target in wiring.target[wiring.learnable].unique().tolist():
        edges = (wiring.learnable & (wiring.target == target)).nonzero().flatten().tolist()
        count = int(wiring.active[edges].sum())
        choices.append([(edges, kept) for kept in combinations(edges, count)])
    names = wiring.nodes.names
    rows = []
    for wired in product(*choices):
        active = wiring.active.clone()
        for edges, kept in wired:
            active[edges] = False
            active[list(kept)] = True
        live = live_nodes(wiring.with_active(active))
        counts = [0] * len(wiring.nodes.group_parameters)
        for name, group in zip(names, wiring.nodes.group.tolist(), strict=True):
            counts[group] += name in live
        rows.append(counts[1:-1])
    return torch.tensor(rows, dtype=torch.double)


SMALL: dict[str, Callable[[], Wiring]] = {
    "skipping": skipping,  # 24 wirings
    "3 modules x 3 branches, K = 2": lambda: learned(depth=11, cardinality=3, fan_in=2),  # 729
    "3 modules x 3 branches, K = 1": lambda: learned(depth=11, cardinality=3, fan_in=1),
    "ResNet": lambda: ResNet(14, fan_in=2).wiring(),  # 180: the first blocks have no choice
}


@pytest.mark.parametrize("name", SMALL)
def test_the_simulation_has_mean_and_deviation_of_all_wirings(name: str) -> None:
    wiring = SMALL[name]()
    exact, live = all_wirings(wiring), live_of_random_wirings(wiring)
    assert live is not None
    assert live.draws == 2000
    std = exact.std(0, correction=0)
    assert ((live.mean - exact.mean(0)).abs() <= 4 * std / live.draws**0.5 + 1e-9).all()
    torch.testing.assert_close(live.std, std, atol=0.05, rtol=0.05)


def test_the_wiring_that_was_learned_does_not_matter() -> None:
    torch.manual_seed(0)
    one, other = (learned(depth=20, cardinality=8, fan_in=1) for _ in range(2))
    assert (one.active != other.active).any()
    first, second = live_of_random_wirings(one), live_of_random_wirings(other)
    assert first is not None
    assert second is not None
    assert torch.equal(first.mean, second.mean)
    third = live_of_random_wirings(one, seed=1)
    assert third is not None
    assert not torch.equal(first.mean, third.mean)


def test_k_of_one_thins_out_with_the_distance_from_the_classifier() -> None:
    """With 8 branches the last but one module keeps 8 (1 - (7 / 8)^8) = 5.25, and so on."""
    live = live_of_random_wirings(learned(depth=29, cardinality=8, fan_in=1))
    assert live is not None
    assert abs(float(live.mean[-2]) - 8 * (1 - (7 / 8) ** 8)) < 0.1
    assert (live.mean.diff() > 0).all()
    assert live.mean[-1] == 8


def test_large_networks_get_fewer_draws() -> None:
    live = live_of_random_wirings(learned(depth=29, width=1, cardinality=64, fan_in=1))
    assert live is not None
    assert 100 <= live.draws < 2000


WITHOUT: dict[str, Callable[[], Wiring]] = {
    "fixed": lambda: learned(depth=20, fan_in=1, wiring="random"),
    "all sources": lambda: learned(depth=20, cardinality=4, fan_in=4),
    "chain": lambda: chain(5),
    "no edges": lambda: skipping().with_active(torch.zeros(10)),
    "fabric": lambda: ConvFabric(3, 2, 3, image_size=8).wiring(),
    "fabric after a search": lambda: (
        ConvFabric(3, 2, 3, image_size=8)
        .wiring()
        .with_active(torch.arange(len(ConvFabric(3, 2, 3, image_size=8).wiring().active)) % 3 > 0)
    ),
    "graph": lambda: NeuralGraph(nodes=64, inputs=4, outputs=10, edges=200, image_size=8).wiring(),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_other_rules_have_no_random_wiring_of_the_same_k(name: str) -> None:
    wiring = WITHOUT[name]()
    assert live_of_random_wirings(wiring) is None
    assert not draw_active_nodes(wiring).axes[0].lines


def test_pictures_show_it_beside_the_bars() -> None:
    wirings = {f"K = {k}": learned(depth=20, cardinality=8, fan_in=k) for k in (1, 2, 8)}
    alone = draw_active_nodes(wirings["K = 1"]).axes[0]
    live = live_of_random_wirings(wirings["K = 1"])
    assert live is not None
    (line,) = alone.lines
    assert line.get_label() == "random wiring\n(mean ± std of 2,000)"
    assert list(line.get_ydata()) == live.mean.tolist()
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    (axes,) = draw_active_by_depth(wirings).axes
    assert len(axes.lines) == 2  # with K = 8 of 8 there is no choice
    for line, bars in zip(axes.lines, axes.containers, strict=False):
        centres = [bar.get_center()[0] for bar in bars]
        assert list(line.get_xdata()) == pytest.approx(centres)
    assert list(axes.lines[0].get_ydata()) == live.mean.tolist()
    labels = [line.get_label() for line in axes.lines]
    assert [label.startswith("random wiring") for label in labels] == [True, False]


def test_deviations_end_where_numbers_do() -> None:
    """A module has no more live nodes than nodes, and no fewer than none."""
    several = {f"K = {k}": learned(depth=29, cardinality=8, fan_in=k) for k in (1, 2)}
    single = ResNet(depth=56, fan_in=3).wiring()
    for figure, total in (
        (draw_active_nodes(several["K = 2"]), 8),
        (draw_active_by_depth(several), 8),
        (draw_active_nodes(single), 1),
        (draw_active_by_depth({"a": single, "b": single}), 1),
    ):
        (axes,) = figure.axes
        bars = [part for part in axes.collections if isinstance(part, LineCollection)]
        ends = np.concatenate([line[:, 1] for part in bars for line in part.get_segments()])
        assert len(ends)
        assert ends.min() >= 0
        assert ends.max() == total
