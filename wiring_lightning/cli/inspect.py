"""`wiring inspect`: what a network's wiring costs, as an entry point of the trainer."""

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from typing_extensions import override

from wiring_lightning.callbacks.layer_table import layer_text
from wiring_lightning.checkpoints import load_weights
from wiring_lightning.cli.config_parts import merged, with_classes
from wiring_lightning.cli.example import costs_with, example_image
from wiring_lightning.cli.found import found_files
from wiring_lightning.cli.messages import fail
from wiring_lightning.cli.parser import WiringParser
from wiring_lightning.cli.picture import draw_network
from wiring_lightning.cli.report import (
    BY_LAYER,
    format_table,
    network_rows,
    summarize,
    summarize_weights,
    summarize_zeros,
)
from wiring_lightning.cli.scores import CHANCE, close_to_chance, score_rows
from wiring_lightning.cli.trust import network_config
from wiring_lightning.cli.yaml_text import read_yaml
from wiring_lightning.costs import LayerCost, layer_costs
from wiring_lightning.files import check_outputs, check_picture
from wiring_lightning.nn import find_adjacencies, find_bernoulli_gates
from wiring_lightning.plots import draw_densities, save_figure
from wiring_lightning.tasks._saved import GIVEN_ANEW
from wiring_lightning.wiring import Wired, find_wired

# What a config may say here beside its model: nothing that writes a file.
_KEPT = ("seed_everything", "ckpt_path", "format")
# What a command for training names, and this one does not need.
_UNUSED = (
    "--data",
    "--trainer",
    *(f"--model.{name}" for name in GIVEN_ANEW if name != "backbone"),
    "--float32_matmul_precision",
)
UNUSED = (
    " Only the network is built: what a config or a command for training says about "
    f"{', '.join(_UNUSED[:-1])} and {_UNUSED[-1]} is accepted and not used."
)


class InspectParser(WiringParser):
    """Reads of a config what the network needs; no optimizer, callback or data set is built.

    Attributes:
        trust: whether the network may be of another package.
        given: everything that the configs say, one after the other, as plain values.
    """

    trust = False

    def __init__(self, *args: Any, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self.given: dict[str, Any] = {}

    @override
    def parse_string(self, content: str, path: Any = "", *args: Any, **settings: Any) -> Namespace:
        try:
            config = read_yaml(content)
        except yaml.YAMLError:
            config = None  # said by what follows
        if isinstance(config, Mapping):
            kept = {key: config[key] for key in _KEPT if key in config}
            if "model" in config:
                where = str(path or "the config")
                model = with_classes(config["model"], self.given.get("model"))
                kept["model"] = network_config(model, self.trust, where)
            self.given = merged(self.given, config)
            content = yaml.safe_dump(kept)
        parsed: Namespace = super().parse_string(content, path, *args, **settings)
        return parsed

    def whole_config(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that was given, with the network that was built.

        Args:
            network: the config of the model that was built, as plain values.
        """
        config, model = deepcopy(self.given), self.given.get("model")
        if model is None or network_config(model, True, "the config") is model:
            return {**config, "model": dict(network)}
        if isinstance(model, str):
            config["model"] = {"class_path": model}
        config["model"].setdefault("init_args", {})["backbone"] = network["init_args"]["backbone"]
        return config


def without_unused(arguments: Sequence[str]) -> list[str]:
    """Leave out options of the trainer, the data and so on, which a command for training has.

    Example:
        >>> without_unused(["inspect", "--data.root", "there", "--trainer.devices=2", "--trust"])
        ['inspect', '--trust']
        >>> without_unused(["inspect", "--trainer.max_epochs", "-1", "--model.lr_warmup=5"])
        ['inspect']
    """
    kept, skip, unused = [], False, []
    for argument in arguments:
        name, equals, _ = argument.replace(".init_args.", ".").partition("=")
        if any(name == key or name.startswith((f"{key}.", f"{key}+")) for key in _UNUSED):
            skip = not equals
            unused.append(name)
        elif not skip or re.match(r"-(?![\d.])", argument):  # no number below zero
            kept.append(argument)
            skip = False
        else:
            skip = False
    if unused and any(argument.partition("=")[0] == "--found" for argument in kept):
        fail(f"--found copies what the config says, so {unused[0]} has no effect: leave it out")
    return kept


class WiringTrainer(Trainer):
    """Lightning's Trainer, one more entry point for the command line, and a folder for every run.

    Attributes:
        folder: where a run writes whose loggers have no folder for every run.
        claimed: folders that were made for this run and nobody else.
        went_on: the config that a run saved which goes on in its folder, beside that of the first.
        worked: whether the run has trained, measured or predicted something.
        data: what the config says about the data, for `inspect`.
    """

    folder: Path | None = None
    claimed: tuple[Path, ...] = ()
    went_on: Path | None = None
    worked: bool = False
    data: Any = None

    @property
    @override
    def log_dir(self) -> str | None:
        """The folder of this run; all ranks must ask for it."""
        if self.folder is None:
            return super().log_dir
        return self.strategy.broadcast(str(self.folder))

    def inspect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,  # noqa: ARG002
        ckpt_path: str | None = None,
        format: Literal["table", "json"] = "table",
        figure: str | None = None,
        found: str | None = None,
        overwrite: bool = False,
        weights_only: bool | None = None,  # noqa: ARG002
        image_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Show what a network's wiring costs, all candidates against what is live.

        Of a network that does not tell a wiring, show which weights of its layers are not zero.

        Args:
            model: the model of the config.
            datamodule: not used; a config for training may name one.
            ckpt_path: checkpoint whose weights and wiring are shown; a fresh network if not given.
            format: a table for people or JSON for programs.
            figure: file to draw the wiring into, .png, .pdf or .svg; of a network without one,
                the densities of its layers.
            found: folder to write the architecture into that a search has found in a fabric: a
                config and a checkpoint of its own.
            overwrite: whether these files may replace others that are there.
            weights_only: not used; the config that a run saves names it.
            image_size: side of the images, or their height and width, to count the multiply-adds of
                a network that does not tell its wiring; by default that of the config's data or of
                the network, if it is known.
        """
        if figure:
            check_picture(figure, "--figure", overwrite)
        check_outputs(found_files(Path(found)) if found else [], "--found", overwrite)
        if ckpt_path is not None:
            load_weights(model, ckpt_path)
        network = find_wired(model)
        if network is not None and image_size is not None:
            raise MisconfigurationException(
                f"{type(network).__name__} tells its wiring, and costs itself: leave --image_size "
                "out, and set image_size of the backbone."
            )
        layers = layer_costs(model)
        if network is None or any(layer.sparse for layer in layers):
            example = example_image(model, image_size, self.data)
            layers = costs_with(model, example, image_size is not None)
        if figure is not None and network is None and not any(layer.sparse for layer in layers):
            raise MisconfigurationException(
                f"{type(model).__name__} holds no network with a `wiring()`, and no weight of its "
                "layers is zero, so there is nothing to draw: leave --figure out, or give a "
                "checkpoint of sparse weights."
            )
        if format == "json":
            print(json.dumps(_summary(model, network, layers), indent=2))
        else:
            _print_table(model, network, layers, trained=ckpt_path is not None)
        if figure is not None:
            drawn = draw_densities(layers) if network is None else draw_network(network)
            save_figure(drawn, Path(figure))


def _summary(
    model: LightningModule, network: Wired | None, layers: Sequence[LayerCost]
) -> dict[str, Any]:
    """The costs of a network as plain values: of its wiring, if it tells one, or of its weights."""
    if network is None:
        return summarize_weights(model, layers)
    searched = bool(find_bernoulli_gates(model))
    return {**summarize(network.wiring(), searched), **summarize_zeros(model, layers)}


def _print_table(
    model: LightningModule, network: Wired | None, layers: Sequence[LayerCost], trained: bool
) -> None:
    """Print the costs of a network, its sparse layers, and of a trained one what its scores tell.

    The scores of a fresh network say nothing.
    """
    rows = network_rows(model, layers)
    if trained:
        rows += score_rows(model)
    print(format_table([row for row in rows if row[0] != BY_LAYER]))
    graphs = find_adjacencies(model)  # their edges are those of the wiring
    shown = [layer for layer in layers if network is None or layer.sparse]
    shown = [layer for layer in shown if layer.name not in graphs]
    if any(layer.sparse for layer in shown):
        print(f"\n{layer_text(shown)}")
    if trained and close_to_chance(model):
        print(CHANCE)
