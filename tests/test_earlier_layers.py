"""The language model whose blocks read earlier layers, and the benchmark of it."""

import argparse
import csv
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from scipy.stats import chi2
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import earlier_layers
from benchmarks.earlier_layers import Case, latest, longest_path, matched, train
from benchmarks.earlier_layers_report import difference, read_edges, write
from docs.examples.language_model import CONTEXT, LanguageModel, NextByte, read_text
from wiring_lightning.callbacks import MaskConnect

KINDS: list[dict[str, Any]] = [
    {"wiring": "all"},
    {"wiring": "weighted"},
    {"wiring": "random", "fan_in": 1},
    {"wiring": "learned", "fan_in": 2},
    {"wiring": "learned", "fan_in": 1, "beside": True},
]


def tiny(**options: Any) -> LanguageModel:
    return LanguageModel(**{"layers": 4, "width": 16, **options}).eval()


def some_text(batch: int = 3) -> Tensor:
    return torch.randint(256, (batch, CONTEXT))


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("place", [1, 20, CONTEXT - 1])
def test_later_bytes_change_no_earlier_logits(options: dict[str, Any], place: int) -> None:
    network, text = tiny(**options), some_text()
    other = text.clone()
    other[:, place:] = (text[:, place:] + 1) % 256
    before, after = network(text), network(other)
    torch.testing.assert_close(before[:, :place], after[:, :place], rtol=0, atol=1e-6)
    assert ((before - after)[:, place:].abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("wiring", ["all", "weighted"])
def test_reading_all_layers_is_a_residual_network(wiring: Any) -> None:
    network, text = tiny(wiring=wiring), some_text()
    stream = network.letters(text) + network.places.weight
    for block in network.blocks:
        stream = stream + block(stream)
    torch.testing.assert_close(network(text), network.head(stream))


@pytest.mark.parametrize("beside", [False, True])
def test_a_block_reads_k_layers_or_the_sum_and_k_more(beside: bool) -> None:
    network, text = tiny(wiring="random", fan_in=2, beside=beside), some_text()
    seen: list[tuple[Tensor, Tensor]] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    network(text)
    outputs = [network.letters(text) + network.places.weight, *(output for _, output in seen)]
    for number, (inputs, _) in enumerate(seen):
        chosen = network.gate.best[number].nonzero().flatten().tolist()
        assert len(chosen) == min(2, number + 1)
        expected = sum(outputs[i] for i in chosen)
        if beside:
            expected = 0.05 * expected + sum(outputs[: number + 1])
        torch.testing.assert_close(inputs, expected)


def test_the_wiring_has_the_chosen_edges_and_all_parameters() -> None:
    network = tiny(wiring="learned", fan_in=2)
    wiring = network.wiring()
    ends = torch.stack([wiring.source, wiring.target], 1)[wiring.active]
    chosen = {(j, i + 1) for i, j in network.gate.best.nonzero().tolist()}
    assert set(map(tuple, ends.tolist())) == chosen | {(layer, 5) for layer in range(5)}
    counted = sum(p.numel() for p in network.parameters())
    counted -= network.gate.scores.numel() + network.strength.numel()
    assert int(wiring.nodes.parameters.sum()) == counted
    assert tiny(wiring="all").wiring().active.sum() == 1 + 2 + 3 + 4 + 5


def test_the_text_to_validate_on_is_not_trained_on() -> None:
    training, validation = read_text()
    whole = bytes([*training[:, 0].tolist(), *training[-1, 1:].tolist()])
    rest = [bytes(window.tolist()) for window in validation]
    assert b"The Python" in whole
    assert len({len(window) for window in rest}) == 1
    assert len(b"".join(rest)) == pytest.approx(len(whole) / 9, rel=0.01)
    assert not any(window in whole for window in rest[:20])


class Drawn(Callback):
    """The wiring of every step, by epoch."""

    def __init__(self) -> None:
        self.wirings: list[set[tuple[int, ...]]] = [set(), set()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        active = pl_module.network.gate.active
        self.wirings[trainer.current_epoch].add(tuple(active.flatten().tolist()))


def test_a_short_training_learns_more_than_frequencies_and_moves_edges() -> None:
    training, validation = read_text()
    shares = validation.flatten().bincount().double() / validation.numel()
    entropy = float(-torch.special.xlogy(shares, shares).sum())
    network, drawn = LanguageModel(fan_in=1, layers=4), Drawn()
    learner = MaskConnect(lr=5.0, update="project", freeze_epoch=1)
    trainer = Trainer(
        max_epochs=2, limit_train_batches=40, limit_val_batches=2, logger=False,
        callbacks=[learner, drawn], accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loaders = DataLoader(training, 16, shuffle=True), DataLoader(validation, 128)
    trainer.fit(NextByte(network), *loaders)
    assert float(trainer.callback_metrics["nats"]) < entropy
    learning, frozen = drawn.wirings
    assert len(learning) > 3
    assert frozen == {tuple(network.gate.best.flatten().tolist())}
    assert float(network.gate.scores[-1].std()) > 0.1  # of all four candidates; 0 at first


# The benchmark


def options(folder: Path, **others: Any) -> argparse.Namespace:
    defaults = {
        "steps": 5, "batch": 2, "width": 8, "lr": 0.01, "gate_lr": [2.0, 50.0], "seeds": [1, 2],
        "processes": 1, "name": str(folder / "results"),
    }  # fmt: skip
    return argparse.Namespace(**{**defaults, **others})


def test_the_longest_path_is_that_of_the_graph() -> None:
    for fan_in in (1, 2, 3):
        edges = LanguageModel("random", fan_in, layers=9, width=8).gate.best
        pairs = [(j, i + 1) for i, j in edges.nonzero().tolist()]
        assert longest_path(edges) == nx.dag_longest_path_length(nx.DiGraph(pairs))
    assert longest_path(latest(9, 2)) == 9


def test_cases_of_a_seed_have_the_same_first_weights(tmp_path: Path) -> None:
    cases = [Case("all", 4, layers=4), Case("random", 2, layers=4), Case("learned", 2, layers=4)]
    networks = [train(case, 7, options(tmp_path, steps=3, lr=1e-12))[1] for case in cases]
    for name, weight in networks[0].blocks.state_dict().items():
        for other in networks[1:]:
            torch.testing.assert_close(other.blocks.state_dict()[name], weight)


def test_what_was_learned_is_trained_again_from_the_first_weights(tmp_path: Path) -> None:
    case = Case("learned", 1, layers=5)
    _, learned = train(case, 1, options(tmp_path, gate_lr=[500.0, 0.0]))
    edges = learned.gate.best
    assert bool(learned.gate.frozen)
    _, found = train(case._replace(wiring="found"), 1, options(tmp_path), edges)
    assert torch.equal(found.gate.best, edges)
    assert not torch.equal(found.head[1].weight, learned.head[1].weight)  # it took other steps


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        earlier_layers, "_GROUPS", [[Case("all", 3, layers=3), Case("random", 1, layers=3)]]
    )
    setting = options(tmp_path)
    todo = list(earlier_layers._todo([1, 2], []))
    assert len(todo) == 4
    rows = [row for one in todo[:3] for row in earlier_layers._run(setting, *one)]
    write(setting, rows)
    again = earlier_layers._read(tmp_path / "results.csv")
    assert sorted(again, key=str) == sorted(rows, key=str)
    assert list(earlier_layers._todo([1, 2], again)) == todo[3:]
    assert (tmp_path / "results.png").exists()
    assert "| 3 | 1 instead of the sum | random |" in (tmp_path / "results.md").read_text()
    with (tmp_path / "results.csv").open() as file:
        assert {row["wiring"] for row in csv.DictReader(file)} == {"all", "random"}


def test_what_was_learned_in_an_earlier_run_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, setting = Case("learned", 1, layers=4), options(tmp_path)
    monkeypatch.setattr(earlier_layers, "_GROUPS", [[case]])
    learned, found = earlier_layers._run(setting, case, 1)
    assert found["edges"] == learned["edges"]
    ((again, seed, edges),) = earlier_layers._todo([1], [learned])
    assert again == case._replace(wiring="found")
    assert edges is not None
    assert earlier_layers._run(setting, again, seed, edges) == [found]
    assert list(earlier_layers._todo([1], [learned, found])) == []


def distances(edges: Tensor) -> Counter[int]:
    """How often a block reads a layer so far before it."""
    return Counter(block - layer for block, layer in edges.nonzero().tolist())


# Blocks that read one layer or two each, with short and with long paths
GIVEN = [
    "0-0 1-0 2-0 3-2 4-4",
    "0-0 1-0 2-0 3-0 4-3",
    "0-0 1-0 1-1 2-0 3-2 3-3 4-1",
    "0-0 1-0 1-1 2-0 2-1 3-0 3-3 4-3 4-4",
]


@pytest.mark.parametrize("text", GIVEN)
def test_matched_wirings_are_drawn_evenly_from_all_that_are_like_the_given_one(text: str) -> None:
    given = read_edges(text, 5)
    rows = [combinations(range(block + 1), int(row.sum())) for block, row in enumerate(given)]
    alike = set()
    for chosen in product(*rows):
        edges = torch.zeros_like(given)
        for block, layers in enumerate(chosen):
            edges[block, list(layers)] = True
        if distances(edges) == distances(given) and longest_path(edges) == longest_path(given):
            alike.add(tuple(edges.flatten().tolist()))
    assert len(alike) > 2
    draws = 20 * len(alike)
    seen = Counter(tuple(matched(given, seed).flatten().tolist()) for seed in range(draws))
    assert set(seen) <= alike
    statistic = sum((seen[one] - 20) ** 2 / 20 for one in alike)
    assert chi2.sf(statistic, len(alike) - 1) > 0.01


@pytest.mark.parametrize("fan_in", [1, 2, 4])
def test_a_matched_wiring_has_the_distances_and_the_depth_of_the_given_one(fan_in: int) -> None:
    for seed in range(3):
        given = LanguageModel("random", fan_in, layers=12, width=8).gate.best
        drawn = matched(given, seed)
        assert distances(drawn) == distances(given)
        assert torch.equal(drawn.sum(1), given.sum(1))  # so no edge came twice
        assert not drawn.triu(1).any()  # no block reads itself or what comes later
        assert longest_path(drawn) == longest_path(given)
        assert torch.equal(drawn, matched(given, seed))
        assert not torch.equal(drawn, given)


def test_found_wirings_get_their_matched_ones_once(tmp_path: Path) -> None:
    setting = options(tmp_path, seeds=[1, 2])
    edges = latest(4, 1)
    case = Case("found", 1, layers=4)
    rows = [
        earlier_layers._row(case, seed, *train(case, seed, setting, edges)) for seed in (1, 2, 3)
    ]
    todo = list(earlier_layers._todo_matched([1, 2], rows))
    assert [(case, seed) for case, seed, _ in todo] == [
        (Case("matched", 1, layers=4), seed) for seed in (1, 2)
    ]
    rows += earlier_layers._run(setting, *todo[0])
    assert rows[-1]["edges"] == "0-0 1-1 2-2 3-3"  # of a chain there is one only
    assert rows[-1]["nats"] == rows[0]["nats"]  # the same first weights and batches
    write(setting, rows)
    again = earlier_layers._read(tmp_path / "results.csv")
    left = list(earlier_layers._todo_matched([1, 2], again))
    assert [seed for _, seed, _ in left] == [2]
    assert "| random of the found depth |" in (tmp_path / "results.md").read_text()


def test_a_difference_is_paired_by_seed_and_noise_is_called_so() -> None:
    def rows(*nats: float) -> list[dict[str, Any]]:
        return [{"seed": seed, "nats": value} for seed, value in enumerate(nats)]

    # Differences -0.1, -0.2, -0.3: their mean is -0.2, their standard error 0.1 / sqrt(3).
    assert difference(rows(1.0, 2.0, 3.0), rows(1.1, 2.2, 3.3)) == "-0.200 ± 0.058"
    assert difference(rows(1.0, 2.0), rows(1.1, 1.9)).endswith(", noise")
    assert difference(rows(1.0, 2.0), list(reversed(rows(1.0, 2.0)))) == "+0.000 ± 0.000, noise"
    assert difference(rows(1.0), None) == "-"


def test_edges_of_a_file_are_read_as_they_were_written() -> None:
    assert read_edges("0-0 1-0 2-1", 3).int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
