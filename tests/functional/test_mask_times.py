"""When masks change and by how much, against the papers' formulas."""

from math import cos, pi

import pytest

from wiring_lightning.functional import MaskTimes
from wiring_lightning.functional.mask_times import AlternatingTimes, decay


def test_the_share_that_moves_is_rigls() -> None:
    times = MaskTimes(end=750, every=100, fraction=0.3, fraction_decay="cosine")
    assert [t for t in range(1000) if times.changes(t)] == [100, 200, 300, 400, 500, 600, 700]
    for t in range(100, 800, 100):
        expected = round(0.3 / 2 * (1 + cos(pi * t / 750)) * 10_000) if t < 750 else 0
        assert times.moved(t, edges=10_000) == expected


@pytest.mark.parametrize(("end", "every", "start"), [(300, 100, 0), (45, 100, 0), (90, 20, 30)])
def test_a_constant_share_moves_in_the_last_change_too(end: int, every: int, start: int) -> None:
    times = MaskTimes(end=end, every=every, start=start, fraction=0.3)
    changes = [t for t in range(400) if times.changes(t)]
    assert changes[-1] == end
    assert [times.moved(t, edges=100) for t in changes] == [30] * len(changes)
    assert times.moved(end + 1, edges=100) == 0
    for name in ("cosine", "linear", "cubic"):  # which are 0 at the end
        falling = MaskTimes(end, every, start, fraction=0.3, fraction_decay=name)  # type: ignore[arg-type]
        assert falling.moved(end, edges=100) == 0
    # After the last step of a training nothing moves.
    last = MaskTimes(end, every, start, fraction=0.3, total=end)
    assert [last.moved(t, edges=100) for t in changes] == [30] * (len(changes) - 1) + [0]


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "cubic"])
@pytest.mark.parametrize("initial", [None, 1.0])
def test_whether_anything_moves_is_what_a_run_would_find(name: str, initial: float | None) -> None:
    for end, every, total, edges in [(45, 100, 60, 9), (9, 3, 9, 9), (9, 4, 20, 1), (6, 6, 6, 9)]:
        times = MaskTimes(end, every, 0, 0.3, name, initial, total=total)  # type: ignore[arg-type]
        for until in (0, 3, 8, total):
            moved = 0
            for step in range(1, until + 1):
                if times.changes(step):
                    before, after = (times.edges(t, edges, 40) for t in (step - 1, step))
                    moved += times.moved(step, min(before, after))
            assert times.moves_any(edges, 40, until) == (moved > 0)


@pytest.mark.parametrize(("initial", "final"), [(1000, 100), (500, 50), (1000, 999)])
def test_the_number_of_weights_is_that_of_gradual_pruning(initial: int, final: int) -> None:
    start, span, count = 40, 20, 1000
    times = MaskTimes(end=40 + 5 * 20, every=span, start=start, initial_density=initial / count)
    s_i, s_f = 1 - initial / count, 1 - final / count
    for n in range(6):
        sparsity = s_f + (s_i - s_f) * (1 - n / 5) ** 3
        expected = (1 - sparsity) * count
        assert abs(times.edges(start + n * span, final, count) - expected) <= 0.5 + 1e-9
    assert times.edges(39, final, count) == times.edges(59, final, count) == initial
    assert times.edges(140, final, count) == times.edges(10**6, final, count) == final
    assert times.final_step == 140


def test_the_last_change_has_the_final_number_if_the_span_is_no_multiple() -> None:
    times = MaskTimes(end=95, every=20, initial_density=1.0)
    assert [t for t in range(200) if times.changes(t)] == [20, 40, 60, 80]
    assert times.final_step == 80
    assert times.edges(80, 10, 100) == 10 < times.edges(79, 10, 100)


@pytest.mark.parametrize("end", [1, 3, 99])
def test_a_short_run_changes_once(end: int) -> None:
    times = MaskTimes(end=end, every=100, initial_density=1.0)
    assert [t for t in range(200) if times.changes(t)] == [end]
    assert times.edges(end - 1, 10, 100) == 100
    assert times.edges(end, 10, 100) == 10


@pytest.mark.parametrize("every", [1, 100])
def test_a_density_falls_at_once_if_the_start_is_the_end(every: int) -> None:
    times = MaskTimes(start=7, end=7, every=every, fraction=0.3, initial_density=1.0)
    assert [t for t in range(200) if times.changes(t)] == [7]
    assert [times.edges(t, 10, 100) for t in (6, 7, 8)] == [100, 10, 10]
    assert times.moved(7, 10) == 0
    at_first = MaskTimes(end=0, initial_density=1.0)
    assert not any(map(at_first.changes, range(9)))
    assert at_first.edges(0, 10, 100) == 10


def test_without_an_end_nothing_changes() -> None:
    times = MaskTimes(end=0, fraction=0.5)
    assert not any(times.changes(t) for t in range(300))
    assert times.edges(7, 10, 100) == 10


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="no decay square; there are constant, linear"):
        decay("square", 0.5)  # type: ignore[arg-type]


def test_phases_alternate_and_end_sparse() -> None:
    times = AlternatingTimes(start=3, every=4, end=17, initial_density=1.0)
    dense = [times.edges(t, 1, 9) == 9 for t in range(25)]
    phases = [True] * 3 + [False] * 4 + [True] * 4 + [False] * 4 + [True] * 2 + [False] * 8
    assert dense == phases
    assert [t for t in range(25) if times.changes(t)] == [3, 7, 11, 15, 17]
    assert not any(times.moved(t, 5) for t in range(25))
