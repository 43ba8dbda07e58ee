"""Accuracies are means of what they were given, with sample deviations as error bars."""

import math
from statistics import mean, stdev

import numpy as np
import pytest

from wiring_lightning.plots import Efficiency, Measurement, draw_accuracy, draw_efficiency

# Accuracy over the fan-in

MEASURED = [
    Measurement("learned", 4, 0.8),
    Measurement("learned", 1, 0.5),
    Measurement("learned", 1, 0.6),
    Measurement("learned", 1, 0.61),
    Measurement("random", 4, 0.7),
    Measurement("full", None, 0.75),
    Measurement("full", None, 0.77),
]


def test_points_are_means_and_bars_deviations():
    (axes,) = draw_accuracy(MEASURED).axes
    learned, random = axes.containers
    assert (learned.get_label(), random.get_label()) == ("learned", "random (n = 1)")
    line, _, (bars,) = learned
    assert line.get_xdata().tolist() == [1, 4]
    ones = [50, 60, 61]
    np.testing.assert_allclose(line.get_ydata().astype(float), [mean(ones), 80])
    (several, single) = bars.get_segments()
    np.testing.assert_allclose(
        several[:, 1].astype(float), [mean(ones) - stdev(ones), mean(ones) + stdev(ones)]
    )
    assert len(single) == 0 or np.isnan(single[:, 1].astype(float)).all()  # one run has no spread
    assert [text.get_text() for text in axes.texts] == ["n = 3", "n = 1"]
    assert [text.xy[0] for text in axes.texts] == [1, 4]


def test_a_wiring_without_fan_in_is_a_line_with_a_band():
    (axes,) = draw_accuracy(MEASURED).axes
    (line,) = [line for line in axes.lines if line.get_label() == "full (n = 2)"]
    assert line.get_xdata() == [0, 1]  # from one side to the other
    np.testing.assert_allclose(line.get_ydata(), [76, 76])
    (band,) = axes.patches
    spread = stdev([75, 77])
    np.testing.assert_allclose(
        [band.get_y(), band.get_y() + band.get_height()], [76 - spread, 76 + spread]
    )


def test_the_fan_ins_are_the_ticks():
    (axes,) = draw_accuracy(MEASURED, title="Digits").axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
    assert axes.get_xlabel() == "fan-in K"
    assert axes.get_ylabel() == "test accuracy (%)"
    assert axes.get_title(loc="left") == "Digits"


@pytest.mark.parametrize("wiring", ["full", "sparse"])
def test_fixed_wirings_alone_have_no_fan_in_axis(wiring):
    (axes,) = draw_accuracy([Measurement(wiring, None, 0.5)]).axes
    assert axes.get_xlabel() == ""
    assert len(axes.get_xticks()) == 0
    assert [line.get_label() for line in axes.lines] == [f"{wiring} (n = 1)"]


def test_no_measurement_is_refused():
    with pytest.raises(ValueError, match="no measurement"):
        draw_accuracy([])


# Accuracy over size


def test_efficiency_is_drawn_over_both_sizes_with_deviations() -> None:
    runs = [
        Efficiency("a", 100, 9000, 0.5),
        Efficiency("a", 300, 1000, 0.7),
        Efficiency("a", 100, 9000, 0.6),
        Efficiency("b", 200, 2000, 0.4),
    ]
    left, right = draw_efficiency(runs, "title").axes
    (line, _, (bars,)), (other, _, _) = left.containers
    assert line.get_xdata().tolist() == [100, 300]
    np.testing.assert_allclose(line.get_ydata().astype(float), [55, 70])
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(stdev([50, 60]))
    assert other.get_xdata().tolist() == [200]
    assert right.containers[0][0].get_xdata().tolist() == [1000, 9000]
    heights = right.containers[0][0].get_ydata().astype(float)
    np.testing.assert_allclose(heights, [70, 55])
    with pytest.raises(ValueError, match="no network"):
        draw_efficiency([])


def test_networks_of_one_setting_are_one_point_at_their_mean_size() -> None:
    runs = [
        Efficiency("a", 100, 9000, 0.5, setting="learned"),
        Efficiency("a", 300, 1000, 0.7, setting="learned"),
        Efficiency("a", 300, 1000, 0.9, setting="random"),
    ]
    left, right = draw_efficiency(runs).axes
    for axes, sizes, heights in ((left, [200, 300], [60, 90]), (right, [1000, 5000], [90, 60])):
        (line, _, _) = axes.containers[0]
        assert line.get_xdata().tolist() == sizes
        np.testing.assert_allclose(line.get_ydata().astype(float), heights)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_an_accuracy_that_is_no_number_is_refused(accuracy: float) -> None:
    with pytest.raises(ValueError, match="A score is"):
        draw_efficiency([Efficiency("a", 1, 1, accuracy), Efficiency("a", 1, 1, 0.5)])
    with pytest.raises(ValueError, match="A score is"):
        draw_accuracy([Measurement("full", None, accuracy)])
