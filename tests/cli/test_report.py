"""What the report at the end of `wiring fit` says, and in which order."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.text import Text
from torch import nn

import wiring_lightning.cli.app
from tests.cli.commands import (
    BASE,
    Trained,
    checkpoint_in,
    network_of,
    succeed,
    weights_in,
    wiring,
    write,
)
from wiring_lightning.backbones import ConvFabric, NeuralGraph, ResNeXt
from wiring_lightning.cli.report import network_rows, sparse_rows
from wiring_lightning.cli.scores import CHANCE, close_to_chance, score_rows
from wiring_lightning.cli.shown_wiring import shown_wiring
from wiring_lightning.nn import Gate, find_gates
from wiring_lightning.optim import GateSGD
from wiring_lightning.plots import draw_connectivity

FABRIC = {"columns": 3, "channels": 4, "scales": 3, "in_channels": 1, "image_size": 8}


def config(*callbacks: dict[str, Any], **backbone: Any) -> dict[str, Any]:
    changed = deepcopy(BASE)
    if backbone:
        changed["model"]["init_args"]["backbone"] = backbone
    changed["data"]["init_args"]["batch_size"] = 16
    changed["trainer"] |= {"callbacks": list(callbacks), "limit_train_batches": 4}
    changed["trainer"] |= {"limit_test_batches": 1, "enable_progress_bar": False}
    return changed


def report(out: str) -> Trained:
    return Trained(Path(), "", "", out)


# First what was measured


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_picture_that_cannot_be_written_costs_no_number(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring_lightning.cli.app, "save_figure", full_disk)
    run = wiring("fit", "--config", base, "--trainer.limit_train_batches=1")
    assert run.code == 2
    assert 0 <= float(report(run.out).reported("test acc")) <= 1
    assert "after pruning" in run.out
    assert "\npicture" not in run.out
    assert "No space left on device" in run.err.splitlines()[-1]


def test_a_logger_that_cannot_write_the_test_costs_no_number(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log(self: Any, metrics: dict[str, float], step: int | None = None) -> None:
        if "test/acc" in metrics:
            full_disk()

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log)
    run = wiring("fit", "--config", base, "--trainer.limit_train_batches=1")
    assert run.code == 2
    assert 0 <= float(report(run.out).reported("test acc")) <= 1
    assert "No space left on device" in run.err.splitlines()[-1]


def test_the_numbers_come_before_the_picture(trained: Trained) -> None:
    order = [
        trained.report.index(label) for label in ("test acc", "parameters", "edges", "picture")
    ]
    assert order == sorted(order)


# Edges of a search


def searched() -> ConvFabric:
    """A fabric of which the search has left a part that leads nowhere."""
    network = ConvFabric(**FABRIC)
    assert network.gate is not None
    names = network.fabric.names
    gone = ["column1.scale2.within", "column2.scale1.same", "column3.scale2.same"]
    with torch.no_grad():
        network.gate.logits[[names.index(name) for name in gone]] = -3
    return network


def test_edges_of_a_search_are_active_if_they_are_live() -> None:
    network = searched()
    wiring_ = network.wiring()
    live = int(wiring_.live_edges.sum())
    assert 0 < live < int(wiring_.active.sum())
    assert (
        dict(network_rows(network))["edges"] == f"{live} active of {wiring_.candidates} candidates"
    )
    # Beside a network that was searched and compacted: the same edges, and no others.
    assert dict(network_rows(network.compact()))["edges"] == f"{live} active of {live} candidates"


def test_pictures_count_live_edges_of_a_search() -> None:
    network = ConvFabric(**FABRIC)
    assert network.gate is not None
    torch.manual_seed(1)
    torch.nn.init.normal_(network.gate.logits.data)
    wiring_ = network.wiring()
    live = int((wiring_.live_edges & wiring_.learnable).sum())
    assert 0 < live < int((wiring_.active & wiring_.learnable).sum())
    figure = draw_connectivity(shown_wiring(network))
    shown = " ".join(text.get_text() for text in figure.findobj(Text))
    assert f"{live} of {int(wiring_.learnable.sum())} learnable edges active" in shown


def test_edges_of_a_gate_are_active_if_they_are_chosen() -> None:
    network = ResNeXt(depth=20, width=1, cardinality=4, fan_in=1)
    expected = f"{4 + 5 * 4 + 4} active of {4 + 5 * 16 + 4} candidates"
    assert dict(network_rows(network))["edges"] == expected


def test_the_commands_count_the_same(tmp_path: Path) -> None:
    search = {"class_path": "BudgetedSearch", "init_args": {"budget": 9000, "lr": 30.0}}
    file = write(config(search, class_path="ConvFabric", init_args=FABRIC), tmp_path / "c.yaml")
    out = succeed("fit", "--config", file)
    checkpoint = checkpoint_in(tmp_path)
    network = ConvFabric(**FABRIC)
    weights = weights_in(checkpoint).items()
    network.load_state_dict({name.removeprefix("backbone."): value for name, value in weights})
    expected = int(network.wiring().live_edges.sum())
    assert report(out).reported("edges").startswith(f"{expected} active of ")
    shown = succeed("inspect", "--config", file, "--ckpt_path", str(checkpoint))
    assert report(shown).reported("edges").startswith(f"{expected} active of ")
    as_json = succeed("inspect", "--config", file, "--ckpt_path", str(checkpoint), "--format=json")
    assert f'"active": {expected}' in as_json
    succeed("figure", "connectivity", str(checkpoint.parents[1]), "-o", "figure.svg")
    wiring_ = network.wiring()
    chosen = int((wiring_.live_edges & wiring_.learnable).sum())
    headline = f"{chosen} of {int(wiring_.learnable.sum())} learnable edges active"
    assert headline in Path("figure.svg").read_text()
    assert report(out).reported("steps") == "4, BudgetedSearch learned in 4"


# Sparse layers beside a wiring


def test_sparse_layers_of_a_network_with_a_wiring_are_shown(tmp_path: Path) -> None:
    dnw = {"class_path": "DNW", "init_args": {"density": 0.25, "layers": ["Linear"]}}
    changed = config(dnw)
    changed["model"]["init_args"]["backbone"]["init_args"]["wiring"] = "full"
    file = write(changed, tmp_path / "c.yaml")
    out = succeed("fit", "--config", file)
    assert report(out).reported("weights kept") == "640 of 2,560 in sparse layers (25.0%)"
    assert report(out).reported("kept by layer") == "backbone.classifier 25.0%"
    assert "after pruning" in out
    shown = succeed("inspect", "--config", file, "--ckpt_path", str(checkpoint_in(tmp_path)))
    totals, table = shown.split("\n\n")
    assert all(line in out for line in totals.splitlines())
    assert [line.split()[0] for line in table.splitlines()] == [
        "layer",
        "backbone.classifier",
        "all",
    ]


def test_graphs_are_told_by_the_wiring_only() -> None:
    network = NeuralGraph(nodes=20, inputs=4, outputs=6, edges=40, depth=3)
    assert sparse_rows(network) == []
    with torch.no_grad():
        network.classifier.weight[0] = 0
    assert [label for label, _ in sparse_rows(network)] == ["weights kept", "kept by layer"]


# What the choice rests on


def test_scores_and_steps_are_in_the_report(trained: Trained) -> None:
    assert trained.reported("steps") == "10, MaskConnect learned in 10"
    entropy = float(trained.reported("entropy of scores").split()[0])
    scores = torch.cat(
        [gate.scores for gate in find_gates(network_of(trained.checkpoint)).values()]
    )
    share = scores / scores.sum(-1, keepdim=True)
    expected = torch.special.entr(share).sum(-1).mean() / torch.tensor(6.0).log()
    assert entropy == pytest.approx(float(expected), abs=6e-4)


def test_a_short_run_is_told_that_its_choice_is_close_to_chance(tmp_path: Path) -> None:
    """And in how many steps it learned: those after the freeze do not count."""
    learner = {"class_path": "MaskConnect", "init_args": {"lr": 0.01, "freeze_epoch": 1}}
    changed = config(learner)
    changed["trainer"]["max_epochs"] = 2
    file = write(changed, tmp_path / "c.yaml")
    out = succeed("fit", "--config", file)
    assert report(out).reported("steps") == "8, MaskConnect learned in 4"
    assert CHANCE in out
    shown = succeed("inspect", "--config", file, "--ckpt_path", str(checkpoint_in(tmp_path)))
    assert CHANCE in shown
    assert CHANCE not in succeed("inspect", "--config", file)  # nothing has learned yet


def test_a_clear_choice_is_not(trained: Trained, tmp_path: Path) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("scores"):
            value.copy_(torch.full_like(value, 0.02))
            value[:, 1] = 0.9
    torch.save(content, tmp_path / "clear.ckpt")
    shown = succeed("inspect", "--config", trained.config, "--ckpt_path", "clear.ckpt")
    assert "entropy of scores" in shown
    assert CHANCE not in shown


@pytest.mark.parametrize("wiring_name", ["full", "random"])
def test_a_wiring_that_did_not_learn_has_no_scores(wiring_name: str) -> None:
    network = ResNeXt(depth=20, width=1, cardinality=4, fan_in=2, wiring=wiring_name)
    assert not close_to_chance(network)


def gates(scores: torch.Tensor, k: int) -> nn.Module:
    gate = Gate(scores.shape[0], scores.shape[1], k)
    gate.scores.data = scores
    return nn.Sequential(gate)


@pytest.mark.parametrize(("targets", "n", "k"), [(8, 8, 2), (40, 8, 4), (16, 5, 1), (53, 30, 10)])
def test_noise_is_called_chance_and_a_choice_is_not(targets: int, n: int, k: int) -> None:
    """Around the scores that a gate starts with; a choice is four deviations apart."""
    called = {"noise": 0, "choice": 0}
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        noise = 1 / n + 0.15 / n * torch.randn(targets, n, generator=generator)
        called["noise"] += close_to_chance(gates(noise.clamp_min(0), k))
        chosen = torch.rand(targets, n, generator=generator).topk(k).indices
        apart = noise.scatter_add(1, chosen, torch.full((targets, k), 4 * 0.15 / n))
        called["choice"] += close_to_chance(gates(apart.clamp_min(0), k))
    assert called["noise"] >= 29
    assert called["choice"] == 0


def test_pairs_say_nothing_by_their_distance() -> None:
    assert not close_to_chance(gates(torch.tensor([[0.3, 0.7]] * 9), 1))
    assert close_to_chance(gates(torch.tensor([[0.499, 0.501]] * 9), 1))  # alike


@pytest.mark.parametrize("variant", [{"explore": "swap"}, {"balance": True}])
@pytest.mark.parametrize("k", [1, 2])
def test_scores_that_only_mark_the_edges_are_not_taken_for_a_clear_choice(
    variant: dict[str, Any], k: int
) -> None:
    """Gradients of pure noise: the freeze leaves only the chosen scores above 0."""
    torch.manual_seed(0)
    network = nn.Sequential(Gate(8, 6, k), Gate(8, 6, k))
    optimizer = GateSGD(find_gates(network).values(), lr=0.5, **variant)
    for _ in range(5):
        for gate in optimizer.gates:
            gate.scores.grad = torch.randn(8, 6) / 100
        optimizer.step()
    optimizer.freeze()
    for gate in optimizer.gates:
        assert torch.equal(gate.scores > 0, gate.best)
    assert not close_to_chance(network)
    assert [text.split(":")[0] for _, text in score_rows(network)] == ["not known"]
    # Beside a gate that tells something, that one counts.
    for other in (1 / 6 + torch.randn(8, 6) / 100, torch.tensor([[0.9] + [0.02] * 5] * 8)):
        telling = gates(other, k)
        both = nn.Sequential(network, telling)
        assert score_rows(both) == score_rows(telling) != []
        assert close_to_chance(both) == close_to_chance(telling)


def test_a_variant_that_does_not_tell_says_so_in_the_report(tmp_path: Path) -> None:
    learner = {"class_path": "MaskConnect", "init_args": {"explore": "swap", "freeze_epoch": 1}}
    file = write(config(learner), tmp_path / "c.yaml")
    out = succeed("fit", "--config", file)
    assert report(out).reported("entropy of scores").startswith("not known")
    assert CHANCE not in out


def test_rows_without_a_choice_do_not_count() -> None:
    clear = torch.tensor([[0.4, 0.4, 0.1, 0.05, 0.05]] * 6)
    alike = torch.tensor([[0.5, 0.5, -1.0, -1.0, -1.0]] * 20)
    both, only = gates(torch.cat([clear, alike]), 2), gates(clear, 2)
    assert score_rows(both) == score_rows(only) != []
    assert not close_to_chance(both)
    assert score_rows(gates(alike, 2)) == []
