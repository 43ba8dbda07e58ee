"""Every command of the papers' page builds what its row says."""

import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import pytest
from lightning.pytorch import Callback
from torch import nn
from torch.optim import SGD
from typing_extensions import override

from tests.plain_commands import backbone, options, typical
from tests.shapes import without_draws
from wiring_lightning import costs
from wiring_lightning.backbones import ResNet, ResNeXt
from wiring_lightning.callbacks import MaskConnect, Phase, PhaseSchedule
from wiring_lightning.cli import WiringCLI
from wiring_lightning.cli.short_names import own_classes_preferred
from wiring_lightning.data import CropFlip, ImageDataModule, ImageNet
from wiring_lightning.nn import Gate
from wiring_lightning.tasks import ClassificationTask

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
PAGE = (ROOT / "docs" / "methods" / "mask_connect_tables.md").read_text()

Kind = TypeVar("Kind", bound=Callback)


# What the page says


@dataclass(frozen=True)
class Recipe:
    """How the papers train one family of networks on one data set."""

    data: str
    classes: int
    stem: str
    batch: int
    decay: float
    epochs: tuple[int, int, int, int]
    gate_lr: float
    crop_flip: CropFlip | None = None


SMALL = Recipe("CIFAR100", 100, "cifar", 128, 5e-4, (120, 100, 50, 50), 0.2, CropFlip(padding=4))
LARGE = Recipe("ImageNet", 1000, "imagenet", 256, 1e-4, (30, 30, 30, 30), 0.2)
CUT = CropFlip(padding=0, margin=10)
# By the headings of the page. From the papers' implementation details, not from the page.
RECIPES = {
    "CIFAR-100, ResNet": replace(SMALL, decay=1e-4, epochs=(30, 30, 10, 10), gate_lr=0.3),
    "CIFAR-100, ResNeXt": SMALL,
    "CIFAR-10, ResNeXt": replace(SMALL, data="CIFAR10", classes=10),
    "Mini-ImageNet, ResNeXt": replace(
        SMALL, data="MiniImageNet", stem="mini_imagenet", batch=256, crop_flip=CUT
    ),
    "ImageNet, ResNeXt": LARGE,
    "ImageNet, ResNet": replace(LARGE, gate_lr=0.3),
}
# Rows of the papers' tables, and networks of other experiments; K = 10 is in a table and a sweep.
ROWS = {
    "CIFAR-100, ResNet": 9 + 16,
    "CIFAR-100, ResNeXt": 8 + 8 + 2 + 1,
    "CIFAR-10, ResNeXt": 8,
    "Mini-ImageNet, ResNeXt": 6,
    "ImageNet, ResNeXt": 6,
    "ImageNet, ResNet": 2,
}
CONNECTIVITY = {
    "Fixed-Prev": "previous",
    "Fixed-Full": "full",
    "Fixed-Random": "random",
    "Learned": "learned",
    "Real-valued": "real",
}


@dataclass(frozen=True)
class Row:
    """One network of the page, and its command behind `wiring`."""

    section: str
    architecture: str
    connectivity: str
    fan_in: int
    parameters: int
    command: tuple[str, ...]

    @property
    def config(self) -> str:
        return self.command[self.command.index("--config") + 1]

    @override
    def __str__(self) -> str:
        return f"{self.section}, {self.architecture}, {self.connectivity}, K={self.fan_in}"


def expand(code: str) -> list[tuple[str, ...]]:
    """The arguments of every call of `wiring` in a piece of shell code."""
    plain = code.startswith("wiring ") and not re.search(r"[$`;&|<>(){}*?~#\\\n]", code)
    if plain:  # most are, and a shell takes a while to start
        return [tuple(shlex.split(code)[1:])]
    script = 'wiring() { printf "%s\\n" "$*"; }\n' + code
    lines = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return [tuple(shlex.split(line)) for line in lines.stdout.splitlines()]


def tables(text: str) -> Iterator[dict[str, str]]:
    """Every row of every table, by the names of its columns."""
    names: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            names = []
        elif not names:
            names = cells
        elif set(line) - set("|- "):
            yield dict(zip(names, cells, strict=True))


def fan_ins(cell: str) -> list[int]:
    """`4` or `1 to 17`."""
    first, *last = map(int, cell.split(" to "))
    return list(range(first, last[0] + 1)) if last else [first]


def read_rows() -> Iterator[Row]:
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        section, _, text = part.partition("\n")
        for cells in tables(text) if section in RECIPES else ():
            commands = expand(cells["command"].strip("`"))
            for fan_in, command in zip(fan_ins(cells["K"]), commands, strict=True):
                yield Row(
                    section,
                    cells["architecture"],
                    cells["connectivity"],
                    fan_in,
                    int(cells["parameters"].replace(",", "")),
                    command,
                )


PAPER_ROWS = list(read_rows())


def test_the_page_has_every_row_of_the_papers() -> None:
    networks = {str(row): row.section for row in PAPER_ROWS}
    assert Counter(networks.values()) == ROWS


def test_every_config_of_the_papers_has_a_row() -> None:
    papers = {path for path in CONFIGS if "/maskconnect/" in path}
    assert {row.config for row in PAPER_ROWS} == papers
    for path in papers:
        assert f"wiring fit --config {path} " in (ROOT / path).read_text()


# What its commands build


class Built(WiringCLI):
    """Builds what commands describe, one after another, and runs nothing."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass

    def build(self, arguments: Sequence[str]) -> None:
        self.parse_arguments(self.parser, list(arguments))
        with without_draws():
            self.instantiate_classes()

    def given(self, *keys: str) -> Any:
        """A value of the whole config of the last command."""
        value: Any = self.config["fit"]
        for key in keys:
            value = value[key]
        return value


@pytest.fixture(scope="module")
def commands() -> Iterator[Built]:
    """One parser for all commands; making it takes longer than using it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(ROOT)
        with own_classes_preferred():  # as `WiringCLI` does while it runs
            yield Built(["fit", "--config", CONFIGS[0]])


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what `seed_everything` leaves behind
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("row", PAPER_ROWS, ids=str)
def test_a_row_is_the_network_that_it_says(row: Row) -> None:
    assert all(key.startswith("model.backbone.") for key in options(row.command))
    kind, given = backbone(row.command)
    with without_draws():
        check_network(row, kind(**given), given)


BY_COMMAND = {row.command: row for row in PAPER_ROWS}


@pytest.mark.parametrize("row", [BY_COMMAND[command] for command in typical(BY_COMMAND)], ids=str)
def test_a_command_builds_what_its_row_says(row: Row, commands: Built) -> None:
    commands.build(row.command)
    given = commands.given("model", "init_args", "backbone", "init_args").as_dict()
    assert (type(commands.model.backbone), given) == backbone(row.command)
    recipe, wiring = RECIPES[row.section], CONNECTIVITY[row.connectivity]
    check_training(recipe, wiring in ("learned", "real"), commands)
    check_data(recipe, commands)
    assert commands.given("seed_everything") == 0


def check_network(row: Row, network: nn.Module, given: dict[str, Any]) -> None:
    recipe, wiring = RECIPES[row.section], CONNECTIVITY[row.connectivity]
    if row.architecture.startswith("ResNet-"):
        depth = int(row.architecture.removeprefix("ResNet-"))
        assert isinstance(network, ResNet)
        full, layers = 1, 2 if recipe.stem == "cifar" else 3
    else:
        depth, width, full = map(int, row.architecture.strip("{}").split(","))
        assert isinstance(network, ResNeXt)
        assert (given["width"], given["cardinality"]) == (width, full)
        layers = 3
    assert given["depth"] == depth == 2 + layers * len(network.blocks)
    names = ("wiring", "stem", "num_classes", "identity", "weighted", "in_channels", "image_size")
    assert [given[name] for name in names] == [
        wiring, recipe.stem, recipe.classes, "mean", False, 3, None
    ]  # fmt: skip
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    if row.connectivity in ("Fixed-Prev", "Fixed-Full"):
        assert not gates
        assert row.fan_in == full
    else:
        assert {(gate.mode, gate.fan_in) for gate in gates} == {(wiring, row.fan_in)}
    assert int(costs.parameters(network.wiring(), live=False)) == row.parameters


def check_training(recipe: Recipe, learns: bool, cli: Built) -> None:
    assert isinstance(cli.model, ClassificationTask)
    assert (cli.model.label_smoothing, cli.model.lr_scheduler) == (0, None)
    optimizer = cli.model.configure_optimizers()
    assert type(optimizer) is SGD
    expected = {"lr": 0.1, "momentum": 0.9, "weight_decay": recipe.decay, "nesterov": False}
    assert expected.items() <= optimizer.defaults.items()
    phases = [
        Phase(epochs, lr) for epochs, lr in zip(recipe.epochs, (0.1, 0.1, 0.01, 0.001), strict=True)
    ]
    if learns:
        phases[0].gate_lr, phases[1].freeze = recipe.gate_lr, True
    (schedule,) = callbacks(cli, PhaseSchedule)
    assert schedule.phases == phases
    learners = callbacks(cli, MaskConnect)
    assert len(learners) == learns
    for learner in learners:
        settings = learner.normalize, learner.low, learner.high, learner.freeze_epoch
        assert settings == (True, 0, 1, None)


def callbacks(cli: WiringCLI, kind: type[Kind]) -> list[Kind]:
    every: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in every if isinstance(callback, kind)]


def check_data(recipe: Recipe, cli: Built) -> None:
    data = cli.datamodule
    assert type(data).__name__ == recipe.data
    assert images_per_step(cli) == recipe.batch
    if isinstance(data, ImageNet):
        assert (data.image_size, data.resize) == (224, 256)
    else:
        assert isinstance(data, ImageDataModule)
        assert (data.augment, data.normalization) == (True, "pixel_mean")
        assert (data.val_size, data.crop_flip) == (0, recipe.crop_flip)


def images_per_step(cli: Built) -> int:
    processes = int(cli.given("trainer", "devices"))
    return cli.datamodule.batch_size * processes * cli.trainer.accumulate_grad_batches


def test_options_for_several_gpus_keep_the_batch(commands: Built) -> None:
    every = [cells for cells in tables(PAGE) if "add to the command" in cells]
    assert len(every) == 6
    names = ("--trainer.devices", "--data.batch_size", "--trainer.accumulate_grad_batches")
    for cells in every:
        added = shlex.split(cells["add to the command"].strip("`"))
        options = dict(option.split("=") for option in added)
        assert options.keys() <= set(names)
        assert prod(map(int, options.values())) == int(cells["batch"])
        if len(options) == len(names):  # the command line takes them all
            row = next(row for row in PAPER_ROWS if RECIPES[row.section].batch == 256)
            commands.build([*row.command, *added, "--trainer.accelerator", "cpu"])
            assert images_per_step(commands) == int(cells["batch"])
            given = commands.trainer.num_devices, commands.datamodule.batch_size
            assert given == (int(options[names[0]]), int(options[names[1]]))


def test_repetitions_change_every_seed(commands: Built) -> None:
    (block,) = [block for block in bash_blocks() if "--seed_everything" in block]
    first, *_, last = repetitions = expand(block)
    for number, arguments in enumerate(repetitions):
        assert arguments == tuple(argument.replace("=0", f"={number}") for argument in first)
    assert number == 3
    commands.build(last)
    (learner,) = callbacks(commands, MaskConnect)
    seeds = commands.given("seed_everything"), commands.datamodule.seed, learner.seed
    assert seeds == (3, 3, 3)


def test_the_other_commands_of_the_page_are_valid(commands: Built) -> None:
    blocks = [block for block in bash_blocks() if "--seed_everything" not in block]
    assert blocks
    for block in blocks:
        for arguments in expand(block):
            commands.build(arguments)


def bash_blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
