"""Every row of SparseNet's tables builds the network and the training that it names."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from torch.optim import SGD
from typing_extensions import override

from tests.plain_commands import Command, backbone, typical
from tests.shapes import shapes_only
from tests.test_configs import CONFIGS, Built, callbacks, expand, images_per_step, tables
from wiring_lightning import costs
from wiring_lightning.backbones import SparseNet, SparseResNet
from wiring_lightning.callbacks import Phase, PhaseSchedule
from wiring_lightning.data import ImageDataModule, ImageNet
from wiring_lightning.tasks import ClassificationTask

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods" / "sparsenet_tables.md").read_text()
CLASSES = {"CIFAR-10": 10, "CIFAR-100": 100, "ImageNet": 1000}
# Table 2 has 19 networks of this package; Table 3 has 10 with sums and 8 with concatenations.
ROWS = {"CIFAR-10": 19, "CIFAR-100": 19 + 10 + 8, "ImageNet": 7}
# Rows whose printed number of parameters the rule does not give, by what the page says of them.
DIFFERENT = {
    *((f"SparseNet-{depth}, k = 32", "ImageNet") for depth in (121, 169, 201)),
    ("SparseNet-201, k = 48", "ImageNet"),
    *((f"{name}-100, k = 32, 64, 128", data)
      for name in ("SparseNet", "SparseNet-BC") for data in ("CIFAR-10", "CIFAR-100")),
    ("SparseNet-BC-100, k = 12", "CIFAR-100"),
    ("DenseNet-BC-400, k = 4", "CIFAR-100"),
    ("DenseNet-BC-250, k = 24", "CIFAR-100"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One network of the page, and its command behind `wiring`."""

    section: str
    network: str
    printed: str
    parameters: int
    command: Command
    flops: tuple[float, float]  # printed and of this package, in billions; nan if not printed

    @property
    def config(self) -> str:
        return self.command[self.command.index("--config") + 1]

    @override
    def __str__(self) -> str:
        return f"{self.section}, {self.network}"


def read_rows() -> Iterator[Row]:
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        section, _, text = part.partition("\n")
        for cells in tables(text) if section in CLASSES else ():
            (command,) = expand(cells["command"].strip("`"))
            yield Row(
                section,
                cells["network"],
                cells["paper's parameters"].removesuffix("M"),
                int(cells["parameters"].replace(",", "")),
                command,
                (
                    float(cells.get("paper's FLOPs", "nan").removesuffix("G")),
                    float(cells.get("FLOPs", "nan").removesuffix("G")),
                ),
            )


PAPER_ROWS = list(read_rows())


def test_the_page_has_every_row_of_the_paper() -> None:
    assert Counter(row.section for row in PAPER_ROWS) == ROWS


def test_every_config_is_a_row() -> None:
    papers = {path for path in CONFIGS if "/sparsenet/" in path}
    assert {row.config for row in PAPER_ROWS if len(row.command) == 3} == papers
    for path in papers:
        assert f"wiring fit --config {path} " in (ROOT / path).read_text()


def test_the_rows_that_differ_from_the_printed_size_are_named() -> None:
    """2 % or rounding apart, for 10 or for 100 classes: the paper does not say which it counts."""
    different = set()
    for row in PAPER_ROWS:
        same = [other.parameters for other in PAPER_ROWS if other.network == row.network]
        if row.network.startswith(("ResNet", "SparseNet[+]")):
            same.append(row.parameters - 90 * 257)  # the classifier for ten classes
        printed = float(row.printed) * 1e6
        rounding = 0.5e6 / 10 ** len(row.printed.partition(".")[2])
        if min(abs(size - printed) for size in same) > max(0.02 * printed, rounding):
            different.add((row.network, row.section))
    assert different == DIFFERENT


@pytest.fixture(scope="module")
def commands() -> Iterator[Built]:
    """One parser for all commands; networks get no memory, which makes deep ones fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(ROOT)
        yield Built(["fit", "--config", PAPER_ROWS[0].config])


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("command", typical(row.command for row in PAPER_ROWS), ids=" ".join)
def test_a_command_gives_the_network_that_its_words_say(command: Command, commands: Built) -> None:
    commands.parse_arguments(commands.parser, list(command))
    given = commands.given("model", "init_args", "backbone")
    kind, arguments = backbone(command)
    assert given["class_path"].rpartition(".")[2] == kind.__name__
    assert vars(given["init_args"]) == arguments


@pytest.mark.parametrize("row", PAPER_ROWS, ids=str)
def test_a_row_builds_the_network_that_it_names(row: Row) -> None:
    family, _, growth = row.network.partition(", k = ")
    kind, _, depth = family.rpartition("-")
    expected = {
        "depth": int(depth),
        "pattern": "dense" if kind in ("ResNet", "DenseNet", "DenseNet-BC") else "log",
        "base": 2,
        "num_classes": CLASSES[row.section],
        "stem": "imagenet" if row.section == "ImageNet" else "cifar",
        "checkpointing": False,
        "in_channels": 3,
        "image_size": None,
    }
    if growth:
        squeezed = kind.endswith("-BC") or row.section == "ImageNet"
        numbers = [int(number) for number in growth.split(", ")]
        expected |= {
            "growth": numbers if len(numbers) > 1 else numbers[0],
            "bottleneck": squeezed,
            "compression": 0.5 if squeezed else 1,
            "shared_statistics": True,
        }
    assert backbone(row.command) == (SparseNet if growth else SparseResNet, expected)
    assert count_parameters(row) == row.parameters


def count_parameters(row: Row) -> int:
    """The networks for CIFAR-10 are those for CIFAR-100 but for the classifier: built once."""
    kind, arguments = backbone(row.command)
    classes = arguments["num_classes"]
    most = max(100, classes)
    size, features = count_network(kind, json.dumps(arguments | {"num_classes": most}))
    return size - (most - classes) * (features + 1)


@cache
def count_network(kind: type[SparseNet | SparseResNet], arguments: str) -> tuple[int, int]:
    """Parameters of the network, and features that its classifier reads."""
    with shapes_only():
        network = kind(**json.loads(arguments))
    size = sum(parameter.numel() for parameter in network.parameters())
    return size, network.classifier.in_features


def with_stem_of_k(network: SparseNet) -> tuple[int, int]:
    """Parameters and multiply-adds if the stem had half of its channels.

    Only the first layers of stage 1 read the stem; the transition and what follows do not.
    """
    wiring = network.wiring()
    from_stem = wiring.source == 0
    assert (wiring.nodes.names[0], wiring.target[from_stem].max() < 166) == ("stem", True)
    halves = [
        (int(of_nodes[0]) + int(of_edges[from_stem].sum())) / 2
        for of_nodes, of_edges in (
            (wiring.nodes.parameters, wiring.parameters),
            (wiring.nodes.multiply_adds, wiring.multiply_adds),
        )
    ]
    totals = int(costs.parameters(wiring)), int(costs.multiply_adds(wiring))
    return totals[0] - int(halves[0]), totals[1] - int(halves[1])


@pytest.mark.parametrize("row", [row for row in PAPER_ROWS if row.section == "ImageNet"], ids=str)
def test_printed_flops_are_those_of_a_stem_of_k_channels(row: Row) -> None:
    """Twice the multiply-adds: DenseNet with 2k, SparseNet with k, all a little below the paper."""
    with shapes_only():
        network = SparseNet(**backbone(row.command)[1])
    printed, own = row.flops
    flops = 2 * int(costs.multiply_adds(network.wiring())) / 1e9
    assert f"{flops:.3f}" == f"{own:.3f}"
    if network.pattern == "log":
        assert 1.03 < flops / printed < 1.053
        flops = 2 * with_stem_of_k(network)[1] / 1e9
    assert 0.994 <= flops / printed <= 0.9965


def test_a_stem_of_k_channels_fits_sparsenet_bc_1001() -> None:
    with shapes_only():
        network = SparseNet(1001, 12, bottleneck=True, compression=0.5, num_classes=100)
    assert with_stem_of_k(network)[0] == 4_623_856
    assert "4,623,856 with k, 4,628,980 with 2k, printed 4.62M" in PAGE


def test_rows_change_nothing_but_the_network() -> None:
    for row in PAPER_ROWS:
        name, config, *options = row.command[1:]
        assert (name, config) == ("--config", row.config)
        assert all(option.startswith("--model.backbone.") for option in options)


@pytest.mark.parametrize("row", [row for row in PAPER_ROWS if len(row.command) == 3], ids=str)
def test_a_config_trains_as_the_paper_does(row: Row, commands: Built) -> None:
    with shapes_only():
        commands.build(row.command)
    check_training(row, commands)
    check_data(row, commands)
    assert commands.given("seed_everything") == 0


def check_training(row: Row, cli: Built) -> None:
    assert isinstance(cli.model, ClassificationTask)
    assert (cli.model.label_smoothing, cli.model.lr_scheduler) == (0, None)
    optimizer = cli.model.configure_optimizers()
    assert type(optimizer) is SGD
    expected = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    assert expected.items() <= optimizer.defaults.items()
    epochs = (30, 30, 30) if row.section == "ImageNet" else (150, 75, 75)
    (schedule,) = callbacks(cli, PhaseSchedule)
    rates = (0.1, 0.01, 0.001)
    assert schedule.phases == [Phase(*both) for both in zip(epochs, rates, strict=True)]


def check_data(row: Row, cli: Built) -> None:
    data = cli.datamodule
    assert type(data).__name__ == row.section.replace("-", "")
    assert images_per_step(cli) == (256 if row.section == "ImageNet" else 64)
    if isinstance(data, ImageNet):
        assert (data.image_size, data.resize) == (224, 256)
    else:
        assert isinstance(data, ImageDataModule)
        assert (data.augment, data.normalization, data.val_size) == (True, "channel_mean_std", 0)


def test_options_for_several_gpus_keep_the_batch(commands: Built) -> None:
    options = [cells for cells in tables(PAGE) if "add to the command" in cells]
    assert len(options) == 3
    for cells in options:
        row = next(
            row for row in PAPER_ROWS if (row.section == "ImageNet") == ("256" in cells["batch"])
        )
        added = shlex.split(cells["add to the command"].strip("`"))
        commands.parse_arguments(commands.parser, [*row.command, *added])
        trainer = commands.given("trainer")
        processes, steps = int(trainer["devices"]), trainer["accumulate_grad_batches"]
        per_process = commands.given("data", "init_args", "batch_size")
        assert per_process * processes * steps == int(cells["batch"])


def test_the_other_commands_of_the_page_are_valid(commands: Built) -> None:
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for arguments in expand(block):
            with shapes_only():
                commands.build(arguments)
            assert commands.datamodule.seed == 1
