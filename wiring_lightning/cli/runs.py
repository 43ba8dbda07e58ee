"""Reading the folder of a run of `wiring fit`."""

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn

from wiring_lightning.backbones._downloads import without_downloads
from wiring_lightning.checkpoints import load_weights, read_weights
from wiring_lightning.cli.config_parts import CONFIG, class_name, classes_in
from wiring_lightning.cli.parse_errors import one_line
from wiring_lightning.cli.parser import WiringParser
from wiring_lightning.cli.run_checkpoints import checkpoints_of
from wiring_lightning.cli.run_scalars import Scalar, read_scalars
from wiring_lightning.cli.short_names import own_classes_preferred
from wiring_lightning.cli.shown_wiring import shown_wiring
from wiring_lightning.cli.trained_config import noted_config, trained_config
from wiring_lightning.cli.trust import network_config, only_known_kinds
from wiring_lightning.cli.yaml_text import read_yaml, where_and_why
from wiring_lightning.nn import Gate, find_bernoulli_gates
from wiring_lightning.wiring import Wired, Wiring, find_wired

_EXAMPLE = "lightning_logs/version_0"
DEPTH = 2  # folders from a run's root directory to the run: lightning_logs/version_0
# What the names of numbers begin with that only a fit logs.
_OF_FITS = ("train", "val")
# Arguments that change the connections of a network, and not its other layers.
CONNECTION = ("wiring", "fan_in")


Part = TypeVar("Part", LightningModule, LightningDataModule)


class RunError(RuntimeError):
    """A folder is no run, or a run lacks something."""


class UnfinishedError(RunError):
    """A folder holds no run that has ended: passed over if other runs are given, too."""

    why = "as not finished"


class NotFiniteError(UnfinishedError):
    """The score of a run is NaN or infinite: it is passed over likewise."""

    why = "as not comparable"


@dataclass(frozen=True)
class Run:
    """A finished run: its config, its trained network and its accuracies.

    Args:
        folder: the folder that holds `config.yaml`, logged numbers and checkpoints.
        config: content of its config, see `file`.
        trust: whether a network that is not of this package is built.
        chosen: the file of that config, if it is not that of the last fit.
    """

    folder: Path
    config: Mapping[str, Any]
    trust: bool = False
    chosen: Path | None = None

    @cached_property
    def file(self) -> Path:
        """The config of the last fit in the folder that has left something, if none was chosen.

        Its data and length are what the last numbers are from.
        """
        return self.chosen or trained_config(self.folder) or self.folder / CONFIG

    def as_of(self, checkpoint: Path) -> "Run":
        """The run with the config of the fit that wrote a checkpoint: several may have gone on.

        Raises:
            RunError: if that config cannot be read.
        """
        file = noted_config(self.folder, checkpoint)
        if file is None or file == self.file:
            return self
        return replace(self, config=_read_config(file), chosen=file)

    @cached_property
    def network(self) -> Wired:
        """The trained network of the last checkpoint.

        Raises:
            RunError: if there is no checkpoint, or no network that can tell its wiring.
            CheckpointError: if the checkpoint is damaged or belongs to another network.
        """
        path = self.checkpoint()
        module = self.as_of(path).build()
        network = find_wired(module)
        if network is None:
            raise RunError(
                f"The {type(module).__name__} of {self.folder} holds no network with a `wiring()`: "
                "use a run of one of wiring_lightning.backbones, or of your own with that method."
            )
        load_weights(module, path)
        return network

    @cached_property
    def wiring(self) -> Wiring:
        """The wiring that the trained network uses in evaluation mode; raises as `network`."""
        return shown_wiring(self.network)

    @property
    def family(self) -> str:
        """Class of the network, its pattern if it has one, and whether it was searched."""
        assert isinstance(self.network, nn.Module)
        searched = "searched" if find_bernoulli_gates(self.network) else None
        parts = [type(self.network).__name__, getattr(self.network, "pattern", None), searched]
        return ", ".join(filter(None, parts))

    @cached_property
    def connection(self) -> tuple[str | None, int | None]:
        """The network's `wiring`, such as `"learned"`, and its fan-in K.

        K is `None` without a gate, as with `wiring="full"`. The name is `None` if there is no
        argument `wiring` either.
        """
        gates = [module for module in self.build().modules() if isinstance(module, Gate)]
        gate = max(gates, key=lambda gate: gate.fan_in, default=None)
        name = self._architecture.get("wiring", None if gate is None else gate.mode)
        return name, None if gate is None else gate.fan_in

    @property
    def label(self) -> str:
        """The connection in words, such as `learned, K = 4` or `full`; empty if there is none."""
        name, fan_in = self.connection
        return ", ".join(filter(None, [name, f"K = {fan_in}" if fan_in else None]))

    @property
    def data(self) -> str:
        """The class of the data, such as `Digits`; empty if the config names none."""
        return class_name(self.config.get("data"))

    def build(self) -> LightningModule:
        """The network of the config in its task, not trained; nothing else of the config is built.

        Pretrained weights that the config names are not downloaded: those of a checkpoint would
        replace them.

        Raises:
            RunError: if the config does not describe one.
            UntrustedError: if the network is not of this package, and not trusted.
        """
        model = network_config(self.config["model"], self.trust, str(self.file))
        with without_downloads():
            return build_part(LightningModule, "model", model, f"{self.file} describes no network")

    def checkpoint(self) -> Path:
        """The checkpoint after the most training steps.

        Raises:
            RunError: if there is none.
            CheckpointError: if there are several, and one cannot be read.
        """
        paths = sorted(checkpoints_of(self.folder))
        if not paths:
            raise UnfinishedError(
                f"The run {self.folder} has no checkpoint in its folder: train with checkpoints "
                "(the trainer's enable_checkpointing). If they are elsewhere, as with a dirpath or "
                "a WandbLogger, link their folder into it as `checkpoints`, or give one of them."
            )
        if len(paths) == 1:
            return paths[0]
        return max(paths, key=_how_far)

    @property
    def tags(self) -> list[str]:
        """Names of all numbers that the run logged, such as `test/acc`."""
        return list(self._scalars)

    def last_number(self, tag: str) -> float | None:
        """The last value of a tag such as `test/acc`; `None` without any."""
        return self._scalars[tag][-1].value if tag in self._scalars else None

    def last_step(self, tag: str) -> int | None:
        """The training step of that value."""
        return self._scalars[tag][-1].step if tag in self._scalars else None

    def number_at(self, tag: str, step: int) -> float | None:
        """The last value of a tag that was logged at a training step; `None` without any."""
        values = [one.value for one in self._scalars.get(tag, []) if one.step == step]
        return values[-1] if values else None

    def accuracy(self, split: Literal["val", "test"]) -> float:
        """The last accuracy on the validation or the test images that was logged, 0 to 1.

        Raises:
            UnfinishedError: if there is none.
            NotFiniteError: if it is NaN or infinite.
        """
        accuracy = self.last_number(f"{split}/acc")
        if accuracy is None:
            missing = f"no {split}/acc in a TensorBoard event file or metrics.csv"
            if split == "val":
                raise UnfinishedError(
                    f"The run {self.folder} has no validation accuracy ({missing}): train with "
                    "validation images (the data's val_size) and a logger."
                )
            raise UnfinishedError(
                f"The run {self.folder} has no test accuracy ({missing}): run `wiring test "
                f"--config {self.file} --ckpt_path FILE` and give the folder that it "
                "writes."
            )
        if not isfinite(accuracy):
            raise NotFiniteError(f"The {split}/acc of the run {self.folder} is {accuracy}.")
        return accuracy

    def check_ended(self) -> None:
        """Refuse a run that logged numbers and was not tested, as `wiring fit` does at its end.

        A run without any numbers may have logged them elsewhere.

        Raises:
            UnfinishedError: if it is one.
        """
        if self.tags and not self.was_tested:
            raise UnfinishedError(f"The run {self.folder} has no test/... in its logs yet.")

    @property
    def was_tested(self) -> bool:
        """Whether the run logged numbers of a test."""
        return any(tag.startswith("test/") for tag in self.tags)

    @property
    def tested(self) -> Path | None:
        """The checkpoint that `wiring test` measured here; `None` if the run trained one.

        The path is one of the folder where the command was given, or was before folders were moved:
        it is looked for, and then its last parts are, in the folders above this run.
        """
        path = self.config.get("ckpt_path")
        trained = checkpoints_of(self.folder) or any(tag.startswith(_OF_FITS) for tag in self.tags)
        if not isinstance(path, str) or trained:
            return None
        parts, above = Path(path).parts, self.folder.resolve().parents
        tails = [Path(*parts[first:]) for first in range(max(len(parts) - 2, 1))]
        places = [folder / tail for tail in tails for folder in above]
        return next((place for place in places if place.is_file()), Path(path)).resolve()

    @cached_property
    def _scalars(self) -> dict[str, list[Scalar]]:
        return read_scalars(self.folder)

    @cached_property
    def _architecture(self) -> Mapping[str, Any]:
        """Name and arguments of the first class in the config that has a wiring or a fan-in."""
        for part in classes_in(self.config["model"]):
            arguments = part.get("init_args") or {}
            if any(name in arguments for name in CONNECTION):
                return {"network": class_name(part), **arguments}
        return {}


def _how_far(checkpoint: Path) -> tuple[int, bool]:
    """The step of a checkpoint, and whether it holds more than weights."""
    content = read_weights(checkpoint)
    return content.get("global_step", -1), "callbacks" in content


def build_part(kind: type[Part], key: str, spec: Any, fault: str) -> Part:
    """Build a part of a run's config, and nothing else of it.

    Args:
        kind: the class that it must be of.
        key: where it is in the config.
        spec: what the config says about it, after `network_config` or `data_config`.
        fault: what a message begins with.

    Raises:
        RunError: if no such object can be built of it.
    """
    parser = WiringParser(exit_on_error=False)
    parser.add_lightning_class_args(kind, key, subclass_mode=True)
    with own_classes_preferred(), only_known_kinds():
        try:
            # Python knows the defaults; the parser takes three times as long with them.
            config = parser.parse_object({key: spec}, defaults=False)
        except ArgumentError as error:
            raise RunError(f"{fault}: {one_line(str(error))}") from error
        built = parser.instantiate(config)[key]
    assert isinstance(built, kind)
    return built


def find_run(path: str | Path, trust: bool = False) -> Run:
    """Read the run in a folder, or the only one in the folders below it.

    Args:
        path: such as `lightning_logs/version_0`, or the root directory of a single run.
        trust: whether a network that is not of this package may be built.

    Raises:
        RunError: if there is no run, or more than one.
    """
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {found}: give the folder of a run, such as {_EXAMPLE}.")
    below = (path.glob("*/" * depth + CONFIG) for depth in range(1, DEPTH + 1))
    folders = sorted(file.parent for files in below for file in files if file.is_file())
    if (path / CONFIG).is_file():
        folders = [path]
    if not folders:
        raise UnfinishedError(
            f"{path} is no run folder, it holds no {CONFIG} at most {DEPTH} folders deep: "
            f"give one that `wiring fit` wrote, such as {_EXAMPLE}."
        )
    if len(folders) > 1:
        names = [str(folder.relative_to(path)) for folder in folders]
        listed = ", ".join(names[:3] + ["..."] * (len(names) > 3))
        raise RunError(f"{path} holds {len(names)} runs ({listed}): give one of them.")
    file = trained_config(folders[0])
    assert file is not None
    return Run(folders[0], _read_config(file), trust)


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is no text in UTF-8 (byte {error.start}).") from error
    except yaml.YAMLError as error:
        raise RunError(f"{path} cannot be read as YAML ({where_and_why(error)}).") from error
    if not isinstance(config, Mapping) or "model" not in config:
        raise RunError(f"{path} is no config of a run: it names no model.")
    return config
