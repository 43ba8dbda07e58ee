"""What the monitor writes is read back from the event files and computed again by hand."""

import csv
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn

from tests.callbacks.monitored_fit import BATCHES, Module, Noise, backbone, events, fit, numbers
from tests.trainers import quiet_trainer
from wiring_lightning import costs
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule, RandomEdges, WiringMonitor
from wiring_lightning.callbacks.wiring_numbers import short_names
from wiring_lightning.nn import Gate, find_gates


class Shuffle(Callback):
    """Sets scores that depend on the epoch alone, and keeps the top-K edges that follow."""

    def __init__(self) -> None:
        self.best: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        self.best.append({name: gate.best for name, gate in find_gates(pl_module).items()})

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        generator = torch.Generator().manual_seed(trainer.current_epoch)
        for gate in find_gates(pl_module).values():
            gate.scores.data.copy_(torch.rand(gate.scores.shape, generator=generator))
        self.best.append({name: gate.best for name, gate in find_gates(pl_module).items()})


class TwoGates(nn.Module):
    """Gates in a network that cannot tell its wiring."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Gate(targets=3, candidates=4, fan_in=2)
        self.second = Gate(targets=1, candidates=3, fan_in=1)
        self.last = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        sources = images.flatten(1).unflatten(1, (4, 16))
        return self.last(self.second(self.first(sources)).squeeze(1))


def test_numbers_agree_with_the_wiring(tmp_path):
    module = fit(tmp_path, backbone(), MaskConnect(lr=50.0), WiringMonitor(pictures=False))
    wiring = module.backbone.wiring()
    last = {tag: values[-1] for tag, values in numbers(tmp_path).items()}
    live = wiring.live_nodes
    assert last["wiring/live_nodes"] == int(live.sum())
    assert last["wiring/live_edges"] == int(wiring.live_edges.sum())
    assert last["wiring/active_edges"] == int(wiring.active.sum())
    assert last["wiring/parameters_live"] == int(costs.parameters(wiring))
    assert last["wiring/multiply_adds_live"] == int(costs.multiply_adds(wiring))
    for row, name in ((2, "module2"), (3, "module3")):
        expected = int(live[wiring.nodes.group == row].sum())
        assert last[f"wiring/{name}/live_branches"] == expected
    kinds = ("entropy", "share_at_0", "share_at_1", "edges_changed", "live_branches")
    assert {tag for tag in last if tag.count("/") == 2} == {
        f"wiring/{name}/{kind}" for name in ("module2", "module3") for kind in kinds
    }


def test_numbers_stand_beside_the_metrics_of_their_epoch(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(pictures=False))
    read = events(tmp_path)
    steps = [event.step for event in read.Scalars("each_epoch")]
    assert steps == [2, 5]
    for tag in ("wiring/live_nodes", "wiring/module2/entropy"):
        assert [event.step for event in read.Scalars(tag)] == [2, 5]


def test_uniform_scores_have_entropy_one(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(lr=0.0), WiringMonitor(pictures=False))
    read = numbers(tmp_path)
    for name in ("module2", "module3"):
        assert read[f"wiring/{name}/entropy"] == [1.0, 1.0]
        assert read[f"wiring/{name}/share_at_0"] == [0.0, 0.0]
        assert read[f"wiring/{name}/edges_changed"] == [0.0, 0.0]


def test_scores_are_described_by_hand_computed_numbers(tmp_path):
    network = TwoGates()
    network.first.scores.data = torch.tensor(
        [[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.125, 0.125, 0.5]]
    )
    network.second.scores.data = torch.tensor([[1.0, 1.0, 2.0]])  # not normalised
    fit(tmp_path, network, WiringMonitor(), epochs=1)
    read = {tag: values[0] for tag, values in numbers(tmp_path).items()}
    entropies = [math.log(2), 0, 1.75 * math.log(2)]
    assert read["wiring/first/entropy"] == pytest.approx(sum(entropies) / 3 / math.log(4))
    assert read["wiring/first/share_at_0"] == pytest.approx(5 / 12)
    assert read["wiring/first/share_at_1"] == pytest.approx(1 / 12)
    assert read["wiring/second/entropy"] == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert read["wiring/second/share_at_1"] == pytest.approx(2 / 3)
    # Best two: {0, 1}, {0, 1} and {0, 3}.
    assert read["wiring/first/live_branches"] == 3
    assert read["wiring/second/live_branches"] == 1
    assert read["wiring/active_edges"] == 7
    assert "wiring/live_nodes" not in read


def test_a_gate_with_one_candidate_has_entropy_zero(tmp_path):
    class OneCandidate(TwoGates):
        def __init__(self) -> None:
            super().__init__()
            self.second = Gate(targets=1, candidates=1, fan_in=1)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.second(images.flatten(1)[:, None, :16]).squeeze(1))

    fit(tmp_path, OneCandidate(), WiringMonitor(), epochs=1)
    assert numbers(tmp_path)["wiring/second/entropy"] == [0.0]


@pytest.mark.parametrize(("network", "every"), [(backbone, 1), (backbone, 2), (TwoGates, 1)])
def test_changed_edges_are_those_of_brute_force(
    tmp_path, network: Callable[[], nn.Module], every: int
):
    shuffle = Shuffle()
    monitor = WiringMonitor(every_n_epochs=every, pictures=False)
    fit(tmp_path, network(), shuffle, monitor, epochs=4)
    read = numbers(tmp_path)
    looked = shuffle.best[::every]
    names = list(looked[0])
    total = [0] * (len(looked) - 1)
    for name in names:
        sets = [{tuple(edge) for edge in best[name].nonzero().tolist()} for best in looked]
        new = [len(now - before) for before, now in pairwise(sets)]
        assert read[f"wiring/{name.rpartition('.')[2]}/edges_changed"] == new
        total = [sum(pair) for pair in zip(total, new, strict=True)]
    assert sum(total) > 0
    assert read["wiring/edges_changed"] == total


def test_the_last_epoch_is_logged_even_if_it_is_not_due(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(every_n_epochs=2), epochs=3)
    read = events(tmp_path)
    steps = [event.step for event in read.Scalars("wiring/module2/entropy")]
    assert steps == [2 * BATCHES - 1, 3 * BATCHES - 1]
    assert [event.step for event in read.Images("wiring/graph")] == steps


@pytest.mark.parametrize(("every", "stop"), [(1, 2), (2, 3)])
def test_resuming_changes_no_number(tmp_path, every: int, stop: int):
    def run(name: str, *callbacks: Callback, **arguments: Any) -> None:
        monitor = WiringMonitor(every_n_epochs=every, pictures=False)
        fit(tmp_path / name, backbone(), Shuffle(), monitor, *callbacks, **arguments)

    checkpoint = tmp_path / "stopped.ckpt"
    keep = ModelCheckpoint(tmp_path, filename="stopped", save_on_train_epoch_end=True)
    run("through", epochs=4)
    run("first", keep, epochs=stop, enable_checkpointing=True)
    run("second", epochs=4, ckpt_path=str(checkpoint))
    saved = torch.load(checkpoint, weights_only=True)["callbacks"]["WiringMonitor"]
    assert all(edges.dtype in (torch.bool, torch.long) for edges in saved["edges"].values())
    through, second = numbers(tmp_path / "through"), numbers(tmp_path / "second")
    assert through.keys() == second.keys()
    for tag, values in second.items():
        assert values == through[tag][-len(values) :]
    assert second["wiring/edges_changed"][0] > 0


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_run_that_resumes_after_its_last_batch_logs_the_last_epoch(
    tmp_path, every: int, plain: bool
):
    def run(name: str, *callbacks: Callback, **arguments: Any) -> dict[str, tuple[int, float]]:
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)) if plain else backbone()
        learner = RandomEdges(density=0.5) if plain else MaskConnect(lr=50.0)
        monitor = WiringMonitor(every_n_epochs=every, pictures=False)
        fit(tmp_path / name, network, learner, monitor, *callbacks, epochs=2, **arguments)
        read = events(tmp_path / name)
        tags = set(numbers(tmp_path / name)) - {"wiring/lr"}  # which is that of a step
        return {tag: (read.Scalars(tag)[-1].step, read.Scalars(tag)[-1].value) for tag in tags}

    keep = ModelCheckpoint(tmp_path, "last", every_n_train_steps=2 * BATCHES)
    through = run("through", keep, enable_checkpointing=True)
    assert through["wiring/active_edges"][0] == 2 * BATCHES - 1
    assert run("second", ckpt_path=str(tmp_path / "last.ckpt")) == through


def test_pictures_are_drawn_after_every_epoch(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor())
    read = events(tmp_path)
    tags = ["wiring/active_branches", "wiring/graph", "wiring/scores"]
    assert sorted(read.Tags()["images"]) == tags
    for tag in tags:
        assert [image.step for image in read.Images(tag)] == [2, 5]
        assert min(image.width for image in read.Images(tag)) > 300


def test_a_given_wiring_is_watched_without_scores(tmp_path):
    fit(tmp_path, backbone("random"), WiringMonitor(), epochs=1)
    assert sorted(events(tmp_path).Tags()["images"]) == ["wiring/active_branches", "wiring/graph"]
    read = numbers(tmp_path)
    assert set(read["wiring/edges_changed"]) == {0.0}
    assert not any(tag.count("/") == 2 for tag in read)


def test_pictures_can_be_turned_off(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(pictures=False), epochs=1)
    assert events(tmp_path).Tags()["images"] == []


def test_a_csv_logger_gets_the_numbers(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="run")
    module = fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(), logger=logger)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["wiring/live_nodes"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("1", "5")]
    live = int(module.backbone.wiring().live_nodes.sum())
    assert float(rows[-1]["wiring/live_nodes"]) == live


@pytest.mark.parametrize("arguments", [{"logger": False}, {"fast_dev_run": True}])
def test_nothing_is_written_without_a_logger(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_sanity_check_is_not_logged(tmp_path):
    fit(tmp_path, backbone(), MaskConnect(), WiringMonitor(), epochs=1, num_sanity_val_steps=1)
    assert [event.step for event in events(tmp_path).Scalars("wiring/module2/entropy")] == [2]


def test_the_rates_of_weights_and_scores_are_curves(tmp_path):
    phases = [Phase(2, lr=0.25, gate_lr=0.5), Phase(1, lr=0.125), Phase(1, lr=0.5, freeze=True)]
    callbacks = MaskConnect(lr=3.0), PhaseSchedule(phases), WiringMonitor(pictures=False)
    fit(tmp_path, backbone(), *callbacks, epochs=4)
    read = events(tmp_path)
    curves = {
        tag: [event.value for event in read.Scalars(tag)][::BATCHES]
        for tag in ("weights/lr", "wiring/lr", "wiring/phase")
    }
    assert curves["weights/lr"] == [0.25, 0.25, 0.125, 0.5]
    assert curves["wiring/lr"] == [0.5, 0.5, 0.5, 0.0]  # a frozen wiring learns no more
    assert curves["wiring/phase"] == [1, 1, 2, 3]


def row_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "run/hparams")).Reload()


def settings_in(read: EventAccumulator) -> dict[str, Any]:
    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: value.string_value or value.number_value for name, value in start.items()}


def test_the_row_of_hyper_parameters_has_the_settings_and_the_final_metrics(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    learner = MaskConnect(lr=0.3, seed=5)
    module = fit(tmp_path, backbone(), learner, WiringMonitor(pictures=False))
    read = row_of(tmp_path)
    wiring = module.backbone.wiring()
    expected = {
        "backbone": "ResNeXt",
        "nodes": 14,
        "candidate_edges": 40,
        "parameters": int(costs.parameters(wiring, live=False)),
        "fan_in": 2,
        "lr": 0,
        "learner/name": "MaskConnect",
        "learner/lr": 0.3,
        "learner/seed": 5,
        "optimizer/name": "SGD",
        "optimizer/lr": 0,
        "optimizer/momentum": 0.5,
        "optimizer/weight_decay": 0,
        "batch_size": 2,
        "max_epochs": 2,
        "seed": 7,
    }
    assert expected.items() <= settings_in(read).items()
    last = {tag: [event.value for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert last == {
        "each_epoch": [11.0],
        "both_epoch": [1.0],
        "val": [21.0],
        "wiring/parameters_live": [int(costs.parameters(wiring))],
        "wiring/multiply_adds_live": [int(costs.multiply_adds(wiring))],
        "wiring/active_edges": [int(wiring.active.sum())],
    }
    assert "hp_metric" not in events(tmp_path).Tags()["scalars"]


def test_the_page_opens_with_what_was_varied_and_the_accuracies(tmp_path):
    """What TensorBoard's own backend makes of the folders of three runs."""

    class Tested(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.log("train/acc", 1.0, on_epoch=True, on_step=False)
            return self.backbone(batch[0]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"val/acc": 0.5, "val/acc_top5": 0.75, "val/loss": 1.0})

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log_dict({"test/acc": 0.25, "test/acc_top5": 0.5, "test/loss": 2.0})

    for number, (fan_in, lr) in enumerate([(1, 0.5), (2, 0.5), (2, 0.25)]):
        logger = TensorBoardLogger(tmp_path, name="", version=f"run{number}")
        callbacks = [MaskConnect(lr=lr), WiringMonitor(pictures=False)]
        trainer = quiet_trainer(max_epochs=1, limit_val_batches=1, callbacks=callbacks,
                                logger=logger)  # fmt: skip
        module = Tested(backbone(fan_in=fan_in))
        trainer.fit(module, Noise())
        trainer.test(module, Noise().train_dataloader(), verbose=False)
    page = hparams_page(tmp_path)
    assert [info.name for info in page.hparam_infos if info.differs] == ["fan_in", "learner/lr"]
    assert [info.name for info in page.hparam_infos][:2] == ["fan_in", "learner/lr"]
    shown_first = [info.name.tag for info in page.metric_infos][:5]
    assert shown_first[:4] == ["test/acc", "test/loss", "val/acc", "val/loss"]


def hparams_page(folder: Path) -> Any:
    """What the HPARAMS page asks TensorBoard for."""
    flags = SimpleNamespace(purge_orphaned_data=False, reload_multifile=False,
                            max_reload_threads=1, samples_per_plugin={}, generic_data="auto",
                            reload_interval=5, path_prefix="", window_title="",
                            reload_multifile_inactive_secs=0)  # fmt: skip
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    backend = Context(TBContext(data_provider=provider, flags=flags))
    context = RequestContext()
    found = backend.hparams_metadata(context, "")
    return backend.experiment_from_metadata(context, "", True, found, [])


@pytest.mark.parametrize("settings", [{"every_n_epochs": 0}, {"every_n_epochs": -2}])
def test_bad_arguments_are_refused(settings):
    with pytest.raises(MisconfigurationException, match="every_n_epochs must be at least 1"):
        WiringMonitor(**settings)


def test_a_module_without_gates_and_wiring_is_refused(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(MisconfigurationException, match="found nothing to watch in Module"):
        fit(tmp_path, network, WiringMonitor())


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["net.block", "net.block.block"], ["block", "block.block"]),
        (["net.a.gate", "net.a.gate.gate", "net.a"], ["a.gate", "a.gate.gate", "a"]),
        (["net.connections.module2"], ["module2"]),
        (["net.a.x", "net.b.x"], ["a.x", "b.x"]),
        (["", "gate"], ["", "gate"]),
        ([], []),
    ],
)
def test_short_names_are_as_many_as_names(names: list[str], short: list[str]):
    assert list(short_names(names).values()) == short
