"""The picture of several runs of every method."""

import math
from itertools import pairwise

import numpy as np
import pytest

from wiring_lightning.plots import draw_seeds


def test_circles_are_runs_and_the_bar_is_mean_and_deviation() -> None:
    scores = {"a": [90.0, 94.0, 92.0], "b": [80.0]}
    (axes,) = draw_seeds(scores, "test/acc (%)", title="digits").axes
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    for line, values in zip(circles, scores.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), values)
    means, bars = zip(*((box[0], box[2][0]) for box in axes.containers), strict=True)
    assert [line.get_xdata()[0] for line in means] == [92.0, 80.0]
    (left, right) = bars[0].get_segments()[0][:, 0]
    assert (right - left) / 2 == pytest.approx(np.std(scores["a"], ddof=1))
    assert np.ptp(bars[1].get_segments()[0][:, 0]) == 0
    assert axes.get_title(loc="left") == "digits"


@pytest.mark.parametrize("scores", [{}, {"a": []}])
def test_nothing_to_draw_is_refused(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="no score to draw"):
        draw_seeds(scores, "test/acc (%)")


def test_long_names_are_told_apart() -> None:
    """Names that begin alike are written in lines, and numbered where they are cut."""
    names = [f"ResNeXt, learned, K = 1, MaskConnect, Digits, {batch}" for batch in (32, 64)]
    names += [f"{'every word of a long name ' * 30}{end}" for end in "ab"]
    figure = draw_seeds({name: [90.0] for name in names}, "test/acc (%)")
    labels = figure.axes[0].get_yticklabels()
    shown = [label.get_text().replace("\n", " ") for label in labels]
    assert shown[:2] == names[:2]
    assert [text.rpartition("... ")[2] for text in shown[2:]] == ["(row 3)", "(row 4)"]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in labels]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="A score is nan"):
        draw_seeds({"a": [90.0, math.nan]}, "test/acc (%)")
