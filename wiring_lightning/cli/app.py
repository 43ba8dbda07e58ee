"""LightningCLI with this package's classes, `wiring inspect` and a report after training."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

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
import wiring_lightning.data
import wiring_lightning.tasks  # noqa: F401
from wiring_lightning.callbacks import PredictionWriter, WiringCallback
from wiring_lightning.checkpoints import AtomicCheckpointIO, check_checkpoint, load_checkpoint
from wiring_lightning.cli.found import write_found
from wiring_lightning.cli.inspect import WiringTrainer
from wiring_lightning.cli.messages import fail, one_line
from wiring_lightning.cli.report import format_table, summary_rows, weight_rows
from wiring_lightning.cli.short_names import prefer_own_classes
from wiring_lightning.plots import draw_architecture, save_figure
from wiring_lightning.wiring import find_wired

# Values of `ckpt_path` that are no file; the trainer resolves them.
_CHECKPOINT_KEYWORDS = ("best", "last", "hpc", "registry")


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
            parser_kwargs={"prog": "wiring"},  # however it was started
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
        return inherited

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # As Lightning does, but without its warning about `args` from Python.
        assert args is None or isinstance(args, list)
        self.config = parser.parse_args(args)

    @override
    def _parse_ckpt_path(self) -> None:
        # Replaces a method that takes hyper-parameters from the checkpoint: there are none. The
        # file is read here, so that a damaged one is reported before anything else is built.
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
        if self.subcommand == "inspect":  # without devices and loggers of the config
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
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # the default
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def after_inspect(self) -> None:
        """Write the architecture with `--found`; only the command line has the config for it."""
        folder = self.config.inspect.found
        if folder is not None:
            parser = self._parser("inspect")
            config = yaml.safe_load(parser.dump(self.config.inspect, skip_none=False))
            path = write_found(self.model, config, Path(folder))
            sys.stderr.write(f"wiring: wrote {path}\n")  # stdout may be JSON

    def after_fit(self) -> None:
        """Test the trained network and print the report."""
        trainer = self.trainer
        if trainer.fast_dev_run or trainer.interrupted:
            return
        tested = trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # a collective call
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
            save_figure(draw_architecture(network.wiring()), folder / "wiring.png")
            rows.append(("picture", str(folder / "wiring.png")))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            rows.append(("curves", f"tensorboard --logdir {folder}"))
        print(f"\n{format_table(rows)}")


def run(arguments: Sequence[str]) -> None:
    """Run a subcommand of `LightningCLI`; the first argument is its name."""
    WiringCLI(list(arguments))


class _Parser(LightningArgumentParser):
    """A parser with one-line error messages."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("WIRING_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.split()[-1]
        command = f"wiring {name}" if name in WiringCLI.subcommands() else "wiring"
        fail(f"{one_line(message)} (see {command} --help)")


def _check_learners(callbacks: Any) -> None:
    """Raise a short error for two learners of one class, where Lightning's is long."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    learners = [callback for callback in given if isinstance(callback, WiringCallback)]
    for name, count in Counter(type(learner).__name__ for learner in learners).items():
        if count > 1:
            raise MisconfigurationException(
                f"The trainer has {count} {name} callbacks: leave one, it learns all gates."
            )
