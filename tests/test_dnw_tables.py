"""Every row of DNW's tables builds the network and the training that it names."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchvision.models import ResNet
from typing_extensions import override

from tests.plain_commands import Command, backbone, options, typical
from tests.test_configs import CONFIGS, Built, callbacks, expand, images_per_step, tables
from wiring_lightning import callbacks as learners, costs
from wiring_lightning.backbones import MobileNetV1, MobileNetV1DNW, NeuralGraph
from wiring_lightning.callbacks import DNW, Phase, PhaseSchedule, WiringCallback
from wiring_lightning.optim import WarmupCosine

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods" / "dnw_tables.md").read_text()
ROWS = {"Table 1": 6, "Table 2": 10, "Table 3": 9, "Table 4": 9 * 2 + 1}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "No update rule": ("NoUpdateRule", {}),
    "L1 + Anneal": ("L1Anneal", {"penalty": 1e-5}),
    "Targeted dropout, rho = 0.95": ("TargetedDropout", {"rho": 0.95, "per_row": False}),
    "Lottery ticket (one-shot)": ("PruneAndRetrain", {"dense_epochs": 160, "rewind": True}),
    **{
        f"Fine-tune, rate {lr}": ("PruneAndRetrain", {"rewind": False, "lr": lr})
        for lr in (0.1, 0.01, 0.001)
    },
    "MobileNetV1-DNW (x 0.225)": ("DNW", {}),
}


@dataclass(frozen=True)
class Row:
    """One row of the page, by the names of its columns, and its command behind `wiring`."""

    section: str
    cells: dict[str, str]
    command: Command

    @override
    def __str__(self) -> str:
        return ", ".join([self.section, *list(self.cells.values())[:2]])


def read_rows() -> Iterator[Row]:
    for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        section, _, text = part.partition("\n")
        for cells in tables(text):
            (command,) = expand(cells["command"].strip("`"))
            yield Row(section, cells, command)


PAPER_ROWS = list(read_rows())
# The 18 sparse rows of Table 4 differ in two values, which a test of its own reads.
TABLE_4 = [row for row in PAPER_ROWS if row.section == "Table 4"]
FEW = [TABLE_4[0].command, *typical(row.command for row in TABLE_4)]
BUILT = [row for row in PAPER_ROWS if row not in TABLE_4 or row.command in FEW]
# The graphs of Table 2 have 13 million weights to choose from, in every row the same.
SMALL = ("--model.backbone.width=0.5", "--model.backbone.stem_channels=2")


@pytest.fixture(scope="module")
def commands() -> Iterator[Built]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(ROOT)
        yield Built(["fit", "--config", CONFIGS[0]])


def test_the_page_has_every_row_and_every_config() -> None:
    assert Counter(row.section for row in PAPER_ROWS) == ROWS
    assert len({row.command for row in PAPER_ROWS}) == len(PAPER_ROWS)
    own = {path for path in CONFIGS if "/dnw/" in path}
    assert {row.command[2] for row in PAPER_ROWS} == own
    for path in own:
        assert f"wiring fit --config {path} " in (ROOT / path).read_text()


def in_turn(rows: Sequence[Row]) -> list[Any]:
    """All rows as parameters; slow are those of Table 3 that differ from another only in width."""
    seen: set[str] = set()
    found = []
    for row in rows:
        network = row.section + next(iter(row.cells.values())).partition("(")[0]
        slow = row.section == "Table 3" and network in seen
        found.append(pytest.param(row, id=str(row), marks=[pytest.mark.slow] if slow else []))
        seen.add(network)
    return found


@pytest.mark.parametrize("row", in_turn(BUILT))
def test_a_row_builds_what_it_says(row: Row, commands: Built, monkeypatch: Any) -> None:
    monkeypatch.chdir(ROOT)
    graphs = row.section == "Table 2" and not row.cells["method"].startswith("MobileNetV1 ")
    commands.build(row.command + (SMALL if graphs else ()))
    check = {"Table 1": tiny_graph, "Table 2": cifar, "Table 3": imagenet, "Table 4": resnet}
    check[row.section](row.cells, commands)


def learner(cli: Built) -> WiringCallback | None:
    found = callbacks(cli, WiringCallback)
    assert len(found) <= 1
    return found[0] if found else None


def training(cli: Built, batch: int, lr: float, decay: float, momentum: float = 0.9) -> Any:
    """Check the optimizer; the schedule."""
    configured = cli.model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    assert type(optimizer) is SGD
    expected = {"momentum": momentum, "weight_decay": decay, "nesterov": False}
    assert expected.items() <= optimizer.defaults.items()
    assert optimizer.defaults["lr"] == lr
    assert images_per_step(cli) == batch
    return configured["lr_scheduler"] if isinstance(configured, dict) else None


def cosine(cli: Built, batch: int, decay: float, epochs: int) -> None:
    schedule = training(cli, batch, 0.1, decay)
    assert type(schedule) is CosineAnnealingLR
    assert schedule.T_max == epochs
    retrains = isinstance(learner(cli), learners.PruneAndRetrain)
    assert cli.trainer.max_epochs == epochs * (2 if retrains else 1)
    assert cli.model.label_smoothing == 0


def tiny_graph(cells: dict[str, str], cli: Built) -> None:
    network = cli.model.backbone
    assert isinstance(network, NeuralGraph)
    assert network.dynamics == cells["dynamics"]
    learned = cells["edges"] == "DNW"
    assert network.adjacency.mode == ("learned" if learned else "random")
    assert network.adjacency.edges == 32_000
    assert type(learner(cli)) is (DNW if learned else type(None))
    assert training(cli, 512, 0.1, 1e-4) is None
    (schedule,) = callbacks(cli, PhaseSchedule)
    assert schedule.phases == [Phase(80, 0.1), Phase(40, 0.01), Phase(40, 0.001)]


def cifar(cells: dict[str, str], cli: Built) -> None:
    name, network = cells["method"], cli.model.backbone
    expected, settings = METHODS.get(name, (None, {}))
    found = learner(cli)
    assert (None if found is None else type(found).__name__) == expected
    assert settings.items() <= vars(found or cli).items()
    if name.startswith("MobileNetV1 "):
        assert isinstance(network, MobileNetV1)
        assert network.classifier.in_features == 256
    else:
        assert isinstance(network, MobileNetV1DNW)
        graph = network.graphs["graph1"].adjacency
        assert graph.mode == ("random" if "RG" in name else "learned")
    cosine(cli, 128, 1e-4, 160)


def test_the_rows_of_table_2_have_the_edges_of_table_5() -> None:
    rows = [row for row in PAPER_ROWS if row.section == "Table 2"][1:]
    networks = [backbone(row.command) for row in rows]
    kind, arguments = networks[-1]
    for row, network in zip(rows, networks, strict=True):
        wiring = "random" if "RG" in row.cells["method"] else "learned"
        assert network == (MobileNetV1DNW, arguments | {"wiring": wiring}), row
    # 0.225 squared times the pairs of DNW's Table 5, rounded up.
    counts = list(kind(**arguments).edge_counts.values())
    assert counts == [104, 1245, 4977, 72991, 79627]


def imagenet(cells: dict[str, str], cli: Built) -> None:
    name, network = cells["network"], cli.model.backbone
    width = float(re.findall(r"x ([\d.]+)", name)[0])
    given = cli.given("model", "init_args", "backbone", "init_args")
    assert (given["width"], given["num_classes"], given["stem"]) == (width, 1000, "imagenet")
    dense = name.startswith("MobileNetV1 ")
    assert type(network) is (MobileNetV1 if dense else MobileNetV1DNW)
    if not dense:
        assert given["small"] == ("Small" in name)
        assert given["wiring"] == ("random" if "RG" in name else "learned")
    assert type(learner(cli)) is (DNW if "DNW" in name else type(None))
    cosine(cli, 512, 5e-5, 250)
    wiring = network.wiring()
    # Which nodes are alive at first depends on the seed.
    close = 1e-3 if dense else 0.05
    size = int(cells["parameters"].replace(",", ""))
    assert int(costs.parameters(wiring)) == pytest.approx(size, rel=0 if dense else close)
    work = 1e6 * float(cells["multiply-adds"].removesuffix("M"))
    assert float(costs.multiply_adds(wiring)) == pytest.approx(work, rel=close)
    printed = float(cells["paper's multiply-adds"].removesuffix("M"))
    assert ("DNW" in name) == (work / 1e6 > 1.01 * printed)  # nodes of DNW die in training


def test_the_rows_of_table_4_differ_in_density_and_first_layer() -> None:
    for row in TABLE_4[:-1]:
        assert row.command[2] == TABLE_4[0].command[2]
        values = {"density": 0.1, "first_dense": False} | {
            key.removeprefix("trainer.callbacks."): value
            for key, value in options(row.command).items()
        }
        assert values == {
            "density": int(row.cells["density"].rstrip(" %")) / 100,
            "first_dense": row.cells["layers"] == "first dense",
        }


def resnet(cells: dict[str, str], cli: Built) -> None:
    network, dnw = cli.model.backbone, learner(cli)
    assert isinstance(network, ResNet)
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032
    assert network.layer2[0].conv2.stride == (2, 2)
    if cells["layers"] == "dense":
        assert dnw is None
    else:
        assert isinstance(dnw, DNW)
        assert dnw.density == int(cells["density"].rstrip(" %")) / 100
        assert len(dnw.find_layers(network)) == (53 if cells["layers"] == "first dense" else 54)
    schedule = training(cli, 256, 0.256, 3.0517578e-5, 0.875)
    assert isinstance(schedule, WarmupCosine)
    assert (schedule.epochs, schedule.warmup_epochs, cli.trainer.max_epochs) == (100, 5, 100)
    assert cli.model.label_smoothing == 0.1
    groups = schedule.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [55, 2 * 53]
    assert groups[1]["weight_decay"] == 0
