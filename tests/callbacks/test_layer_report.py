"""The table and the numbers of sparse layers, computed again by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from tests.callbacks.reader import SPARSE, Reader, batches, fit
from tests.callbacks.test_log_to import Keeps
from tests.trainers import quiet_trainer
from wiring_lightning.callbacks import DNW, SET, MaskSchedule, RigL, SparseLayers
from wiring_lightning.callbacks._example import CountedOnce
from wiring_lightning.callbacks.layer_table import layer_table, layer_text
from wiring_lightning.costs import layer_costs

SETTINGS: dict[str, Any] = {"density": 0.1, "every": 1, "unit": "step", "fraction": 0.5}


class Numbers(Keeps):
    """Keeps the numbers of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        found = {name: value for name, value in metrics.items() if name.startswith("learner/")}
        self.epochs += [found] if found else []


class Logged(Callback):
    """The numbers of every epoch, and the masks that they are about."""

    def __init__(self, learner: SparseLayers[Any]) -> None:
        self.learner = learner
        self.logger = Numbers()
        self.masks: list[dict[str, Tensor]] = []

    @property
    def numbers(self) -> list[dict[str, float]]:
        return self.logger.epochs

    def look(self, module: LightningModule) -> None:
        names = {parameter: name for name, parameter in module.named_parameters()}
        found = self.learner.present_edges().items()
        self.masks.append({names[parameter]: mask.clone() for parameter, mask in found})

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        self.look(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: LightningModule) -> None:
        self.look(pl_module)


def train(learner: SparseLayers[Any], epochs: int = 3, **settings: Any) -> Logged:
    logged = Logged(learner)
    callbacks = [logged, *settings.pop("callbacks", [])]
    data = batches(1) * 3  # the same, wherever a run goes on
    fit(
        learner, data=data, max_epochs=epochs, callbacks=callbacks, logger=logged.logger, **settings
    )
    return logged


@pytest.mark.parametrize("kind", [SET, MaskSchedule])
def test_numbers_are_those_of_the_masks(kind: type[MaskSchedule]) -> None:
    logged = train(kind(**SETTINGS, log_density=True, until=1.0))
    changes = 0.0
    assert len(logged.numbers) == 3
    for old, now, numbers in zip(logged.masks, logged.masks[1:], logged.numbers, strict=False):
        kept = sum(int(mask.sum()) for mask in now.values())
        new = {name: int((now[name] & ~old[name]).sum()) for name in now}
        assert numbers["learner/density"] == pytest.approx(kept / (72 + 1152 + 160))
        assert numbers["learner/changed"] == pytest.approx(sum(new.values()) / kept)
        for name in SPARSE:
            layer, mask = name.removesuffix(".weight"), now[name]
            share = new[name] / int(mask.sum())
            assert numbers[f"learner/changed/{layer}"] == pytest.approx(share)
            assert numbers[f"learner/density/{layer}"] == pytest.approx(float(mask.float().mean()))
            ends = {(edge[0], edge[1]) for edge in mask.nonzero().tolist()}
            rows, columns = ({end[side] for end in ends} for side in (0, 1))
            assert numbers[f"learner/dead_rows/{layer}"] == mask.shape[0] - len(rows)
            assert numbers[f"learner/dead_columns/{layer}"] == mask.shape[1] - len(columns)
        changes += numbers["learner/changed"]
    assert changes > 0


def test_two_learners_log_the_numbers_of_all_their_layers_once() -> None:
    body = SET(**SETTINGS, log_density=True, until=1.0, layers=["body.*"])
    quiet = RigL(density=0.5, layers=["first"], total_steps=9)
    logged = train(
        DNW(density=0.5, log_density=True, layers=["head"]), epochs=1, callbacks=[body, quiet]
    )
    (numbers,) = logged.numbers
    assert numbers["learner/density/head"] == 0.5
    assert numbers["learner/density"] == pytest.approx((80 + 115) / (160 + 1152))
    changed = numbers["learner/changed/head"] * 80 + numbers["learner/changed/body.1"] * 115
    assert numbers["learner/changed"] == pytest.approx(changed / (80 + 115))
    for kind in ("dead_rows", "dead_columns"):
        parts = [numbers[f"learner/{kind}/{layer}"] for layer in ("head", "body.1")]
        assert numbers[f"learner/{kind}"] == sum(parts)


def test_a_resumed_run_logs_the_same_numbers(tmp_path: Path) -> None:
    def learner() -> MaskSchedule:
        return MaskSchedule(**SETTINGS, log_density=True, until=1.0, total_steps=12)

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    through = train(learner(), epochs=4, callbacks=[keep], enable_checkpointing=True)
    resumed = train(learner(), epochs=4, resume=str(tmp_path / "step=4.ckpt"))  # inside an epoch
    assert len(resumed.numbers) == 3
    assert resumed.numbers == through.numbers[1:]
    assert resumed.numbers[0]["learner/changed"] > 0


def test_the_memory_is_in_the_state_only_if_it_is_used(tmp_path: Path) -> None:
    def saved(log: bool) -> Any:
        keep = ModelCheckpoint(tmp_path, filename=str(log))
        fit(DNW(density=0.1, log_density=log), callbacks=[keep], enable_checkpointing=True)
        content = torch.load(tmp_path / f"{log}.ckpt", weights_only=True)
        return content["callbacks"]["DNW"]

    assert "seen" not in saved(False)
    seen = saved(True)["seen"]
    assert {name: (bits.dtype, bits.numel()) for name, bits in seen.items()} == {
        "first.weight": (torch.uint8, 9),
        "body.1.weight": (torch.uint8, 144),
        "head.weight": (torch.uint8, 20),
    }


def tables(messages: list[str]) -> dict[str, list[list[str]]]:
    """The cells of the printed tables, by their titles."""
    shown = [message.splitlines() for message in messages if ", layers at the " in message]
    return {lines[0]: [line.split() for line in lines[2:]] for lines in shown}


def test_a_table_is_printed_at_the_start_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        module, _ = fit(RigL(density=0.1, exclude=["first"], total_steps=6))
    shown = tables(caplog.messages)
    assert list(shown) == ["RigL, layers at the start:", "RigL, layers at the end:"]
    for rows in shown.values():
        assert [row[0] for row in rows] == ["first", "body.1", "head", "all"]
        assert [row[row.index("x") - 1 :][:3] for row in rows[:3]] == [
            ["8", "x", "1"], ["16", "x", "8"], ["10", "x", "16"]
        ]  # fmt: skip
    start, end = shown.values()
    assert [row[-5:-2] for row in start[:3]] == [
        ["72", "72", "100.0%"], ["115", "1,152", "10.0%"], ["16", "160", "10.0%"]
    ]  # fmt: skip
    # After the fit an example is known: images of 6 x 6.
    dense = [72 * 36, 1152 * 36, 160]
    kept = [72 * 36, 115 * 36, 16]
    assert [row[-2:] for row in end] == [
        [f"{one:,}", f"{of:,}"]
        for one, of in zip([*kept, sum(kept)], [*dense, sum(dense)], strict=True)
    ]
    costs = layer_costs(module.double(), torch.zeros(1, 1, 6, 6, dtype=torch.double))
    assert [(row.kept_multiply_adds, row.multiply_adds) for row in costs] == list(
        zip(kept, dense, strict=True)
    )


def test_two_learners_print_one_table(caplog: pytest.LogCaptureFixture) -> None:
    convs = DNW(density=0.5, layers=["Conv2d"])
    with caplog.at_level("INFO"):
        fit(convs, callbacks=[RigL(density=0.1, layers=["Linear"], total_steps=6)])
    shown = tables(caplog.messages)
    assert list(shown) == ["RigL, layers at the start:", "RigL, layers at the end:"]
    densities = [row[-5] for row in shown["RigL, layers at the end:"]]
    assert densities == ["50.0%", "50.0%", "10.0%", "45.4%"]  # 36, 576 and 16 of 1,384


def test_an_example_of_the_module_is_used_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    module = Reader().double()
    module.example_input_array = torch.zeros(1, 1, 5, 7)
    with caplog.at_level("INFO"):
        fit(DNW(density=0.1), module)
    for rows in tables(caplog.messages).values():
        assert rows[0][-1] == f"{72 * 35:,}"


def test_a_module_that_takes_no_example_trains_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class TakesTwo(Reader):
        def forward(self, images: Tensor, scale: float | None = None) -> Tensor:
            if scale is None:
                raise RuntimeError("no scale\nis given")
            return super().forward(images * scale)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0], 2.0), batch[1])

    with caplog.at_level("INFO"):
        fit(DNW(density=0.1), TakesTwo())
    (said,) = [message for message in caplog.messages if "multiply-adds are not known" in message]
    assert "TakesTwo did not take an example of the data (RuntimeError: no scale)." in said
    assert all(row[-1] in "0123456789" for row in tables(caplog.messages)[
        "DNW, layers at the end:"])  # fmt: skip


def test_counting_changes_no_run() -> None:
    plain = Reader().double()
    counted = Reader().double()
    counted.example_input_array = torch.zeros(1, 1, 6, 6)
    fit(SET(**SETTINGS, total_steps=6), plain)
    fit(SET(**SETTINGS, total_steps=6), counted)
    for one, other in zip(plain.parameters(), counted.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("batch", [{"images": torch.zeros(2, 3)}, [], torch.tensor(1.0), ("text",)])
def test_batches_that_hold_no_plain_input_are_left_alone(batch: Any) -> None:
    once = CountedOnce("DNW")
    once.keep(batch)
    assert not once.wants_batch
    once.count(quiet_trainer(), Reader())
    assert once.counts is None


def test_a_module_without_a_forward_pass_is_not_called() -> None:
    class Apart(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(4, 2)

    once = CountedOnce("DNW")
    once.keep((torch.zeros(2, 4),))
    once.count(quiet_trainer(), Apart())
    assert once.counts is None


def test_a_long_table_shows_both_ends() -> None:
    rows = layer_costs(nn.Sequential(*(nn.Linear(2, 2) for _ in range(53))))
    lines = layer_text(rows, most=20).splitlines()
    assert [line.split()[0] for line in lines[1:11]] == [str(i) for i in range(10)]
    assert lines[11] == "... 33 more"
    assert [line.split()[0] for line in lines[12:]] == [*map(str, range(43, 53)), "all"]
    assert len(layer_text(rows).splitlines()) == 1 + 53 + 1


def test_the_table_for_loggers_has_plain_values() -> None:
    layer = nn.Linear(4, 2)
    layer.weight.data[0] = 0
    columns, rows = layer_table(layer_costs(nn.Sequential(layer), torch.zeros(1, 4)))
    assert dict(zip(columns, rows[0], strict=True)) == {
        "layer": "0", "shape": "2 x 4", "kept": 4, "weights": 8, "density": 0.5, "dead_rows": 1,
        "dead_columns": 0, "multiply_adds": 4, "dense": 8,
    }  # fmt: skip
    assert rows[1][0] == "all layers"
    assert rows[1][2:] == rows[0][2:]


def test_batches_are_only_looked_at() -> None:
    data = batches(2)
    before = [batch[0].clone() for batch in data]
    fit(DNW(density=0.1), data=data)
    assert all(torch.equal(one, batch[0]) for one, batch in zip(before, data, strict=True))
