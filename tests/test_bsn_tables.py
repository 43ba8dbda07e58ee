"""Every row of Budgeted Super Networks' tables builds the network and the search that it names."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD
from typing_extensions import override

from tests.plain_commands import Command, backbone, typical
from tests.shapes import shapes_only, without_draws
from tests.test_configs import CONFIGS, Built, callbacks, expand, images_per_step, tables
from wiring_lightning import costs
from wiring_lightning.backbones import ConvFabric, ResNetFabric
from wiring_lightning.callbacks import BudgetedSearch, Phase, PhaseSchedule
from wiring_lightning.data import CIFAR10, CIFAR100, PartLabels
from wiring_lightning.tasks import ClassificationTask, SegmentationTask
from wiring_lightning.wiring import Wiring

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods" / "bsn_tables.md").read_text()
# Rows of this package's networks: fixed and searched, by the number of the table.
ROWS = {
    1: (5 + 4, 7 + 5), 2: (5, 6), 3: (5 + 4, 7 + 6), 4: (1, 2), 5: (5 + 4, 5 + 4),
    6: (5 + 4, 5 + 7), 7: (5, 6), 8: (5 + 4, 5 + 6), 9: (5, 5),
}  # fmt: skip
# What the paper's captions say: data, cost and machines.
TABLES = {
    1: (CIFAR10, "multiply_adds", 1), 2: (CIFAR100, "multiply_adds", 1),
    3: (CIFAR10, "parameters", 1), 4: (PartLabels, "multiply_adds", 1),
    5: (CIFAR10, "sequential_steps", 4), 6: (CIFAR10, "sequential_steps", 1),
    7: (CIFAR100, "sequential_steps", 1), 8: (CIFAR10, "sequential_steps", 2),
    9: (CIFAR100, "sequential_steps", 2),
}  # fmt: skip
RESNETS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}
STEPS_OF_A_CNF = {1: 171, 2: 90, 4: 53}  # printed; whole, with 8 columns


@dataclass(frozen=True)
class Row:
    """One network of the page, and its command behind `wiring`."""

    table: int
    network: str
    cost: str
    accuracy: str
    unit: float
    command: Command

    @property
    def config(self) -> str:
        return self.command[self.command.index("--config") + 1]

    @property
    def options(self) -> dict[str, str]:
        return dict(option.removeprefix("--").split("=") for option in self.command[3:])

    @property
    def searched(self) -> bool:
        return self.network.startswith("B-")

    @override
    def __str__(self) -> str:
        return f"Table {self.table}, {self.network}, {self.cost}"


def read_rows() -> Iterator[Row]:
    units = {"millions": 1e6, "billions": 1e9}
    for part in re.split(r"^## Table ", PAGE, flags=re.MULTILINE)[1:]:
        table, text = int(part.partition(":")[0]), part.partition("\n## ")[0]
        for cells in tables(text):
            name = next(name for name in cells if re.match("multiply-adds|parameters|steps", name))
            (command,) = expand(cells["command"].strip("`"))
            unit = units.get(name.partition("(")[2].rstrip(")"), 1.0)
            cost = cells[name].replace(",", "")
            yield Row(table, cells["network"], cost, cells["accuracy (%)"], unit, command)


PAPER_ROWS = list(read_rows())
FIXED = [row for row in PAPER_ROWS if not row.searched]
SEARCHED = [row for row in PAPER_ROWS if row.searched]
PARSED = typical(row.command for row in SEARCHED)
CONFIG_ROWS = list({row.config: row for row in PAPER_ROWS if len(row.command) == 3}.values())


def test_the_page_has_every_row_of_the_paper() -> None:
    counts = Counter((row.table, row.searched) for row in PAPER_ROWS)
    assert {table: (counts[table, False], counts[table, True]) for table in ROWS} == ROWS


def test_every_config_of_the_paper_is_a_row() -> None:
    papers = {path for path in CONFIGS if "/bsn/" in path and "digits" not in path}
    assert {row.config for row in CONFIG_ROWS} == papers
    for path in papers:
        assert f"wiring fit --config {path} " in (ROOT / path).read_text()


def test_equal_networks_have_equal_accuracies() -> None:
    """The paper's tables repeat its fixed networks: a slip of a row shows here."""
    printed: dict[tuple[str, ...], set[str]] = {}
    for row in FIXED:
        printed.setdefault(row.command, set()).add(row.accuracy)
    assert all(len(accuracies) == 1 for accuracies in printed.values())


@pytest.fixture(scope="module")
def commands() -> Iterator[Built]:
    """One parser for all commands; networks get no memory, which makes large ones fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(ROOT)
        yield Built(["fit", "--config", PAPER_ROWS[0].config])


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(ROOT)


def parse(command: Command, cli: Built) -> dict[str, Any]:
    """The arguments of a command's network, which must be those that its words say."""
    cli.parse_arguments(cli.parser, list(command))
    given = cli.given("model", "init_args", "backbone")
    kind, arguments = backbone(command)
    assert given["class_path"].rpartition(".")[2] == kind.__name__
    assert vars(given["init_args"]) == arguments
    return arguments


@pytest.mark.parametrize("command", typical(row.command for row in FIXED), ids=" ".join)
def test_a_command_gives_the_network_that_its_words_say(command: Command, commands: Built) -> None:
    parse(command, commands)


@pytest.mark.parametrize(
    "row", {row.command: row for row in FIXED}.values(), ids=lambda row: row.network
)
def test_a_fixed_network_costs_what_the_paper_prints(row: Row) -> None:
    kind, given = backbone(row.command)
    assert kind is (ResNetFabric if row.network.startswith("ResNet") else ConvFabric)
    with shapes_only():
        network = kind(**given)
    wiring = network.wiring()
    for same in (other for other in FIXED if other.command == row.command):
        data, name, machines = TABLES[same.table]
        printed = float(same.cost) * same.unit
        if name == "sequential_steps":
            price = costs.SequentialSteps(machines, order="reverse_postorder")  # as the paper
            assert int(price(wiring)) == printed, same
            continue
        size = float(getattr(costs, name)(wiring))
        if data is CIFAR100:
            size -= 90 * 64  # the paper prints what the network takes for ten classes
        # Up or down in the last printed digit that is no zero.
        decimals = len(same.cost.partition(".")[2].rstrip("0"))
        assert abs(size - printed) <= same.unit / 10**decimals, same


@pytest.mark.parametrize("row", [row for row in SEARCHED if row.command in PARSED], ids=str)
def test_a_search_is_the_papers(row: Row, commands: Built) -> None:
    """Rows that have every option of every config; the next test reads the others."""
    given = parse(row.command, commands)
    data, name, machines = TABLES[row.table]
    assert given["architecture"] == "search"
    assert row.network == "B-ResNet" or given["columns"] == 8
    assert commands.given("data", "class_path").rpartition(".")[2] == data.__name__
    search = commands.given("trainer", "callbacks")[-1]
    assert search.class_path.rpartition(".")[2] == "BudgetedSearch"
    arguments = search.init_args
    assert (arguments.cost, arguments.machines) == (name, machines)
    assert arguments.order == ("reverse_postorder" if machines > 1 else "critical_path")
    assert given.get("counting") == (None if row.network == "B-ResNet" else "printed")
    assert arguments.budget == pytest.approx(float(row.cost) * row.unit)
    assert arguments.penalty is None
    assert (arguments.relative_penalty, arguments.lr) == (1, 0.064)
    assert (arguments.warmup_epochs, arguments.freeze_epoch) == (50, None)


@pytest.mark.parametrize("row", SEARCHED, ids=str)
def test_a_search_has_the_cost_and_the_budget_of_its_row(row: Row) -> None:
    _, name, machines = TABLES[row.table]
    default = next(other for other in CONFIG_ROWS if other.config == row.config)
    prefix = "trainer.callbacks."
    assert row.options.get(f"{prefix}cost", "multiply_adds") == name
    assert int(row.options.get(f"{prefix}machines", 1)) == machines
    order = "reverse_postorder" if machines > 1 else "critical_path"
    assert row.options.get(f"{prefix}order", "critical_path") == order
    budget = row.options.get(f"{prefix}budget", float(default.cost) * default.unit)
    assert float(budget) == pytest.approx(float(row.cost) * row.unit)


def test_the_page_names_the_budgets_that_never_bind() -> None:
    """A whole fabric within the budget of its row: no architecture pays a penalty."""

    @cache
    def whole_fabric(width: int) -> Wiring:
        with without_draws():
            return ResNetFabric(width).wiring()

    loose = set()
    for row in SEARCHED:
        _, name, machines = TABLES[row.table]
        if name != "sequential_steps":
            continue
        width = int(row.options.get("model.backbone.width", 3))
        whole = STEPS_OF_A_CNF[machines]
        if row.network == "B-ResNet":
            price = costs.SequentialSteps(machines, order="reverse_postorder")
            whole = int(price(whole_fabric(width)))
        if float(row.cost) >= whole:
            loose.add((row.table, float(row.cost), float(row.cost) == whole))
    assert loose == {
        (5, 110, True), (5, 58, False), (5, 20, True), (7, 320, True), (8, 179, True),
        (9, 179, True),
    }  # fmt: skip
    assert "with 110, 58 and 20 steps in Table 5, with 320 in Table 7, and with 179 in" in " ".join(
        PAGE.split()
    )


def test_the_width_of_a_row_is_that_of_the_nearest_resnet() -> None:
    """The page's rule, with the costs of the page's own ResNet rows."""
    for row in SEARCHED:
        if row.network != "B-ResNet":
            continue
        resnets = {
            float(other.cost): RESNETS[int(other.network.removeprefix("ResNet-"))]
            for other in FIXED
            if other.table == row.table and other.network.startswith("ResNet")
        }
        cost = float(row.cost)
        nearest = min(resnets, key=lambda other: max(cost / other, other / cost))
        assert int(row.options.get("model.backbone.width", 3)) == resnets[nearest], row


@pytest.mark.parametrize("row", CONFIG_ROWS, ids=lambda row: Path(row.config).stem)
def test_a_config_trains_as_the_paper_does(row: Row, commands: Built) -> None:
    with shapes_only():
        commands.build(row.command)
    optimizer = commands.model.configure_optimizers()
    assert type(optimizer) is SGD
    expected = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
    assert expected.items() <= optimizer.defaults.items()
    (schedule,) = callbacks(commands, PhaseSchedule)
    faces = row.table == 4
    phases = [(130, 0.1), (70, 0.01)] if faces else [(150, 0.1), (75, 0.01), (75, 0.001)]
    assert schedule.phases == [Phase(*both) for both in phases]
    assert len(callbacks(commands, BudgetedSearch)) == row.searched
    data = commands.datamodule
    assert type(data) is TABLES[row.table][0]
    assert (data.augment, data.normalization) == (True, "symmetric")
    assert images_per_step(commands) == (16 if faces else 64)
    if isinstance(data, PartLabels):
        assert isinstance(commands.model, SegmentationTask)
    else:
        assert isinstance(commands.model, ClassificationTask)
        assert data.val_size == 5000
    assert commands.given("seed_everything") == 0


def test_options_for_several_gpus_keep_the_batch(commands: Built) -> None:
    options = [cells for cells in tables(PAGE) if "add to the command" in cells]
    assert len(options) == 2
    for cells in options:
        row = next(row for row in CONFIG_ROWS if (row.table == 4) == (cells["batch"] == "16"))
        added = shlex.split(cells["add to the command"].strip("`"))
        commands.parse_arguments(commands.parser, [*row.command, *added])
        trainer = commands.given("trainer")
        processes, steps = int(trainer["devices"]), trainer["accumulate_grad_batches"]
        per_process = commands.given("data", "init_args", "batch_size")
        assert per_process * processes * steps == int(cells["batch"])


def test_the_other_commands_of_the_page_are_valid(commands: Built) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for arguments in typical(arguments for block in blocks for arguments in expand(block)):
        commands.parse_arguments(commands.parser, list(arguments))
