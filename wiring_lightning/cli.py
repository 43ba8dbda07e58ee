"""The command line: LightningCLI with this package's classes, an `inspect` and a final report."""

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import override

# Imported so that configs can name these classes without their module.
import wiring_lightning.backbones
import wiring_lightning.callbacks
import wiring_lightning.data
import wiring_lightning.tasks  # noqa: F401
from wiring_lightning import pareto
from wiring_lightning.__main__ import SUBCOMMANDS
from wiring_lightning.callbacks import PredictionWriter, WiringCallback
from wiring_lightning.checkpoints import (
    AtomicCheckpointIO,
    check_checkpoint,
    load_checkpoint,
    load_weights,
)
from wiring_lightning.figures import Request, make
from wiring_lightning.found import write_found
from wiring_lightning.messages import one_line
from wiring_lightning.report import format_table, summarize, summary_rows
from wiring_lightning.short_names import prefer_own_classes
from wiring_lightning.sparsity import summarize_weights, weight_rows
from wiring_lightning.wiring import Wired, find_wired

# What `ckpt_path` may be instead of a file, for the trainer to find.
_CHECKPOINT_KEYWORDS = ("best", "last", "hpc", "registry")


class WiringTrainer(Trainer):
    """Lightning's Trainer, and one more entry point for the command line."""

    def inspect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,  # noqa: ARG002
        ckpt_path: str | None = None,
        format: Literal["table", "json"] = "table",
        figure: str | None = None,
        found: str | None = None,  # noqa: ARG002
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> None:
        """Show what a network's wiring costs, all candidates against what is live.

        Of a network that does not tell a wiring, show which share of its weights is not zero.

        Args:
            model: the model of the config.
            datamodule: not used; a config for training may name one.
            ckpt_path: checkpoint whose weights and wiring are shown; a fresh network if not given.
            format: a table for people or JSON for programs.
            figure: file to draw the wiring into, such as wiring.png or wiring.svg.
            found: folder to write the architecture into that a search has found in a fabric: a
                config and a checkpoint of its own.
            weights_only: not used; the config that a run saves names it.
        """
        if ckpt_path is not None:
            load_weights(model, ckpt_path)
        network = find_wired(model) if figure is None else _wired(model)
        wiring = None if network is None else network.wiring()
        if format == "json":
            summary = summarize_weights(model) if wiring is None else summarize(wiring)
            print(json.dumps(summary, indent=2))
        else:
            print(format_table(weight_rows(model) if wiring is None else summary_rows(wiring)))
        if figure is not None and network is not None:
            _draw(network, Path(figure))


class WiringCLI(LightningCLI):
    """`wiring fit | validate | test | predict | inspect --config FILE`."""

    def __init__(self, args: ArgsType = None) -> None:
        self._checkpoint: dict[str, Any] | None = None
        prefer_own_classes()
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=WiringTrainer,
            parser_class=_Parser,
            parser_kwargs={"prog": "wiring"},  # however Python was told to run it
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},  # a resumed run writes into the same folder
            auto_configure_optimizers=False,
            args=args,
        )

    @override
    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        inherited = LightningCLI.subcommands()
        inherited["inspect"] = {"model", "datamodule"}
        return {name: inherited[name] for name in SUBCOMMANDS if name in inherited}

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # Without Lightning's warning about arguments that come from a Python call.
        assert args is None or isinstance(args, list)
        self.config = parser.parse_args(args)

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would let hyper-parameters of the checkpoint override the command line. Ours
        # holds none; the file is read here to say early and clearly if it is damaged.
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and path.partition(":")[0] not in _CHECKPOINT_KEYWORDS:
            self._checkpoint = load_checkpoint(path)

    @override
    def after_instantiate_classes(self) -> None:
        if self._checkpoint is not None and self.subcommand != "inspect":
            path = self.config[self.subcommand].ckpt_path
            check_checkpoint(self.model, self._checkpoint, path, resume=self.subcommand == "fit")
        self._checkpoint = None
        measures = self.subcommand in ("validate", "test", "predict")
        if measures and self.config[self.subcommand].get("ckpt_path") is None:
            rank_zero_warn(
                f"wiring {self.subcommand} without --ckpt_path runs a network that was not trained."
            )

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand == "inspect":  # needs none of the devices and loggers of the config
            return WiringTrainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False
            )
        _check_learners(self.config_init[self.subcommand].trainer.callbacks)
        trainer = super().instantiate_trainer(**kwargs)
        callbacks = [type(callback) for callback in trainer.callbacks]
        if self.subcommand == "predict" and not any(
            issubclass(kind, BasePredictionWriter) for kind in callbacks
        ):
            trainer.callbacks.append(PredictionWriter())
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # none that the user chose
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def after_inspect(self) -> None:
        """Write the architecture that was asked for; only the command line has its config."""
        folder = self.config.inspect.found
        if folder is not None:
            parser = self._parser("inspect")
            config = yaml.safe_load(parser.dump(self.config.inspect, skip_none=False))
            path = write_found(self.model, config, Path(folder))
            sys.stderr.write(f"wiring: wrote {path}\n")  # not into the JSON

    def after_fit(self) -> None:
        """Test the trained network and print the report."""
        trainer = self.trainer
        if trainer.fast_dev_run or trainer.interrupted:
            return
        tested = trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks take part in log_dir
        if not trainer.is_global_zero:
            return
        rows = [
            (name.replace("/", " "), f"{value:.4f}")
            for metrics in tested
            for name, value in metrics.items()
        ]
        network = find_wired(self.model)
        if network is None:
            rows += weight_rows(self.model)
        else:
            rows += summary_rows(network.wiring())
            rows.append(("picture", str(_draw(network, folder / "wiring.png"))))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            rows.append(("curves", f"tensorboard --logdir {folder}"))
        print(f"\n{format_table(rows)}")


def run(arguments: Sequence[str]) -> None:
    """Run one command of Lightning's; see `run_figure` for how problems end."""
    with _one_sentence():
        WiringCLI(list(arguments))


def run_figure(request: Request) -> None:
    """Draw a figure; a problem that the user can solve ends in one sentence and exit code 2."""
    with _one_sentence():
        make(request)


def run_pareto(request: pareto.Request) -> None:
    """Select the best networks at every cost; problems end as in `run_figure`."""
    with _one_sentence():
        pareto.make(request)


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("wiring: interrupted\n")
        raise SystemExit(1) from None
    except Exception as error:
        known = (FloatingPointError, MisconfigurationException, OSError, ValueError)
        if os.environ.get("WIRING_DEBUG") or not (isinstance(error, known) or _is_ours(error)):
            raise
        _fail(one_line(str(error)))


class _Parser(LightningArgumentParser):
    """Says in one line what is wrong with an argument or a config."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("WIRING_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        subcommand = parser.prog.split()[-1]
        command = f"wiring {subcommand}" if subcommand in SUBCOMMANDS else "wiring"
        _fail(f"{one_line(message)} (see {command} --help)")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"wiring: error: {message}\n")
    raise SystemExit(2) from None


def _is_ours(error: Exception) -> bool:
    """Whether this package raised a `RuntimeError`, and so has worded it for users."""
    if not isinstance(error, RuntimeError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")).startswith("wiring_lightning.")


def _check_learners(callbacks: Any) -> None:
    """Find what Lightning would refuse in many words: two callbacks with the same state."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    learners = [callback for callback in given if isinstance(callback, WiringCallback)]
    for name, count in Counter(type(learner).__name__ for learner in learners).items():
        if count > 1:
            raise MisconfigurationException(
                f"The trainer has {count} {name} callbacks: leave one, it learns all gates."
            )


def _wired(model: LightningModule) -> Wired:
    network = find_wired(model)
    if network is None:
        raise MisconfigurationException(
            f"{type(model).__name__} holds no network with a `wiring()`, so there is no "
            "picture of one; leave --figure out, or use one of wiring_lightning.backbones or your "
            "own with that method."
        )
    return network


def _draw(network: Wired, path: Path) -> Path:
    from wiring_lightning.plots import draw_architecture, save_figure

    save_figure(draw_architecture(network.wiring()), path)
    return path
