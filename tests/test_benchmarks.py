"""What the benchmarks say of their numbers."""

import math
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.stats import binom
from torch import Tensor, nn

from benchmarks import compact_networks, compact_speed, planted_wiring
from benchmarks.experiments import agreement, learn, make_data
from benchmarks.images_per_second import main, time_passes, write_pictures
from benchmarks.planted_networks import make_task, random_wiring
from benchmarks.planted_wiring import recovered, train
from benchmarks.steps import ratio
from wiring_lightning.backbones import ResNeXt
from wiring_lightning.nn import Gate


@pytest.mark.parametrize("rounds", [6, 15, 31, 41])
def test_the_interval_of_a_ratio_covers_the_median_in_95_of_100_runs(rounds: int) -> None:
    ranks = [float(rank) for rank in range(rounds, 0, -1)]
    found = re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", ratio(ranks, [1.0] * rounds))
    assert found is not None
    median, low, high = map(float, found.groups())
    assert median == (rounds + 1) / 2
    assert low + high == rounds + 1
    # The true median lies between two ranks if neither too few nor too many ratios are below it.
    covered = binom.cdf(high - 1, rounds, 0.5) - binom.cdf(low - 1, rounds, 0.5)
    narrower = binom.cdf(high - 2, rounds, 0.5) - binom.cdf(low, rounds, 0.5)
    assert narrower < 0.95 <= covered


def test_a_rate_is_images_over_seconds_after_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"perf_counter": 0.0, "process_time": 0.0}
    for name in now:
        monkeypatch.setattr(time, name, lambda name=name: now[name])
    durations = iter([100.0, 2.0, 4.0])  # the first round is not counted

    def deliver() -> int:
        seconds = next(durations)
        now["perf_counter"] += seconds
        now["process_time"] += seconds / 2  # half of the time another process has the core
        return 12

    assert time_passes(deliver, rounds=2) == ([6.0, 3.0], [12.0, 6.0])


def gates(scores: Tensor, fan_in: int = 2) -> nn.Module:
    gate = Gate(*scores.shape, fan_in=fan_in)
    with torch.no_grad():
        gate.scores.copy_(scores)
    return nn.ModuleList([gate])


def test_agreement_is_the_correlation_within_targets() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(2, 6, 8)
    centred = [part - part.mean(1, keepdim=True) for part in (one, other)]
    expected = torch.corrcoef(torch.stack([part.flatten() for part in centred]))[0, 1]
    assert agreement(gates(one), gates(other)) == pytest.approx(float(expected), abs=1e-6)
    assert agreement(gates(one), gates(0.5 * one + 0.1)) == pytest.approx(1)
    # A common part of all scores of a target is no agreement on the choice.
    shift = torch.rand(6, 1) * 10
    assert agreement(gates(one + shift), gates(other + shift)) == pytest.approx(
        float(expected), abs=1e-5
    )


def test_agreement_leaves_out_what_is_no_choice() -> None:
    torch.manual_seed(0)
    one, other = torch.rand(2, 4, 5)
    for scores in (one, other):
        scores[0, 2:] = -1  # two candidates, which are both taken
        scores[1, 3:] = -1
    flat = [
        torch.cat([row[row >= 0] - row[row >= 0].mean() for row in scores[1:]])
        for scores in (one, other)
    ]
    expected = torch.corrcoef(torch.stack(flat))[0, 1]
    assert agreement(gates(one), gates(other)) == pytest.approx(float(expected), abs=1e-6)
    same = torch.full((4, 5), 0.2)
    assert math.isnan(agreement(gates(same), gates(same)))


@pytest.mark.filterwarnings("ignore")
def test_the_same_draws_agree_and_other_draws_do_less() -> None:
    networks = []
    for seed in (0, 0, 1):
        data = make_data("digits", "", 16, 0)
        torch.manual_seed(0)
        network = ResNeXt(11, 4, 4, fan_in=1, in_channels=1, image_size=8)
        learn(network, data, epochs=1, steps=6, lr=0.05, gate_lr=1.0, seed=seed)
        networks.append(network)
    assert agreement(networks[0], networks[1]) == pytest.approx(1)
    assert agreement(networks[0], networks[2]) < 0.9


def test_the_pictures_are_jpeg_files_of_the_size_of_photographs(tmp_path: Path) -> None:
    mean = write_pictures(tmp_path, 2)
    files = sorted(tmp_path.glob("*/*/*.jpg"))
    assert len(files) == 4
    assert mean == sum(path.stat().st_size for path in files) / 4
    for path in files:
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (500, 375))
            assert image.getextrema() != 3 * ((0, 0),)


def test_images_per_second_writes_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, threads = tmp_path / "table.md", torch.get_num_threads()
    words = f"x --images 2 --batch 2 --rounds 1 --note Busy. --markdown {path}"
    monkeypatch.setattr(sys, "argv", words.split())
    try:
        main()
    finally:
        torch.set_num_threads(threads)
    text = path.read_text()
    assert text == capsys.readouterr().out
    assert text.endswith("\n\nBusy.\n")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rates = {name: cells for name, *cells in rows[2:]}  # after the names of the columns
    assert {"decoding", "ImageNet, training", "in memory, with augmentation"} <= set(rates)
    numbers = [int(cell.split()[0].replace(",", "")) for cells in rates.values() for cell in cells]
    assert len(numbers) == 2 * len(rates)
    assert min(numbers) > 0


@pytest.mark.parametrize(
    "learner",
    [
        "MaskConnect, lr 0.05",
        pytest.param("MaskConnect, project", marks=pytest.mark.slow),
    ],
)
def test_a_planted_wiring_is_found(learner: str) -> None:
    """Own labels: the small version of results/planted_wiring.md."""
    assert train(make_task(0, shared=False), learner, 0, [500, 0])["recovered"] >= 0.95


def test_edges_are_counted_with_targets_in_their_best_places() -> None:
    planted = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()
    found = planted[[2, 0, 1]].clone()
    found[0] = torch.tensor([False, True, True])
    assert recovered(planted, planted, trade=False) == 1
    assert recovered(found, planted, trade=False) == pytest.approx(3 / 6)
    assert recovered(found, planted, trade=True) == pytest.approx(5 / 6)


def test_a_planted_target_depends_on_its_sources_alone() -> None:
    task = make_task(3, shared=False)
    sources, labels = task.sample(4, torch.Generator().manual_seed(0))
    assert labels.shape == (4, 8)
    for source in range(8):
        moved = sources.clone()
        moved[0, source] += 1
        changed = (task.label(moved) - task.label(sources))[0].abs() > 1e-6
        assert changed.tolist() == task.wiring[:, source].tolist()


def test_planted_wirings_with_all_sources_read() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_wiring(8, 8, 2, generator, cover=True) for _ in range(20)]
    assert all((one.sum(1) == 2).all() and one.any(0).all() for one in drawn)


@pytest.mark.slow
def test_the_planted_benchmark_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, learners = tmp_path / "planted", ["random, all sources read", "planted", "BSN"]
    words = ["x", "--seeds", "2", "--steps", "3", "2", "--processes", "1", "--name", str(name)]
    monkeypatch.setattr(sys, "argv", [*words, "--only", *learners])
    monkeypatch.setattr("benchmarks.planted_wiring.keep_freed_memory", lambda: None)
    planted_wiring.main()
    text = name.with_suffix(".md").read_text()
    assert text.count("own labels") == text.count("one shared label") == 1
    for learner in learners:
        assert text.count(f"\n| {learner} |") == 2
    assert "| planted |" in text
    assert name.with_suffix(".png").exists()
    assert len(name.with_suffix(".csv").read_text().splitlines()) == 1 + 2 * 2 * len(learners)


def test_compact_networks_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, threads = tmp_path / "table.md", torch.get_num_threads()
    words = f"x --small --rounds 1 --batch 2 --threads 1 --markdown {path}".split()
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("benchmarks.compact_speed.keep_freed_memory", lambda: None)
    try:
        compact_speed.main()
    finally:
        torch.set_num_threads(threads)
    rows = [line.strip("| ").split(" | ") for line in path.read_text().splitlines()[4:]]
    table = [row for row in rows[2:] if len(row) == 8]
    assert [row[0] for row in table] == list(compact_networks.pairs(small=True))
    shares = [float(row[2]) for row in table]
    assert min(shares) > 0
    assert min(shares) < max(shares) == 1  # some have dead parts, and one has none
    sizes = [float(row[7]) for row in table]
    assert all(size < 1 for share, size in zip(shares, sizes, strict=True) if share < 1)


def test_a_wrong_compact_network_is_not_timed() -> None:
    network, other = ResNeXt(11, 4, 4, fan_in=1).eval(), ResNeXt(11, 4, 4, fan_in=1).eval()
    with pytest.raises(SystemExit, match="the folded network differs by"):
        compact_speed._check(network, {"folded": other.compact()}, torch.randn(2, 3, 32, 32))
