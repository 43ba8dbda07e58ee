"""LightningCLI with this package's classes, an `inspect` and a final report."""

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
from wiring_lightning.cli.resume import explain, find_checkpoint, is_word
from wiring_lightning.cli.run_folder import SaveConfig, begins, claim_folder, release_folder
from wiring_lightning.cli.short_names import prefer_own_classes
from wiring_lightning.files import free_path
from wiring_lightning.plots import draw_architecture, save_figure
from wiring_lightning.wiring import find_wired


class WiringCLI(LightningCLI):
    """`wiring fit | validate | test | predict | inspect --config FILE`."""

    trainer: WiringTrainer
    subcommand: str

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
            save_config_callback=SaveConfig,
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
        # Without Lightning's warning about arguments that come from a Python call.
        assert args is None or isinstance(args, list)
        self.config = parser.parse_args(args)

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would let hyper-parameters of the checkpoint override the command line. Ours
        # holds none; the file is read here to say early and clearly if it is damaged.
        subcommand = self.config.subcommand
        path = self.config[subcommand].ckpt_path
        if path is not None and not is_word(path) and subcommand != "inspect":
            self._read(path)

    def _read(self, path: str) -> None:
        weights_only = self.config[self.config.subcommand].get("weights_only")
        self._checkpoint = load_checkpoint(path, weights_only is not False)

    @override
    def after_instantiate_classes(self) -> None:
        if self.subcommand == "inspect":  # it reads the file itself
            return
        given = self.config_init[self.subcommand]
        if is_word(given.ckpt_path):
            given.ckpt_path = find_checkpoint(
                self.trainer, given.ckpt_path, self.subcommand, self._plain_config()
            )
            if given.ckpt_path is not None:
                self._read(given.ckpt_path)
        if self._checkpoint is not None:
            resume = self.subcommand == "fit"
            check_checkpoint(self.model, self._checkpoint, given.ckpt_path, resume, self.trainer)
        self._checkpoint = None
        if self.subcommand != "fit" and given.ckpt_path is None:
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

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "inspect" and not self.trainer.fast_dev_run:
            given = self.config[subcommand].ckpt_path
            claim_folder(self.trainer, begins(subcommand, given))
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            release_folder(self.trainer)
            explain(error, self.config_init[subcommand].get("ckpt_path"))

    def after_inspect(self) -> None:
        """Write the architecture that was asked for; only the command line has its config."""
        folder = self.config.inspect.found
        if folder is not None:
            path = write_found(self.model, self._plain_config(), Path(folder))
            sys.stderr.write(f"wiring: wrote {path}\n")  # not into the JSON

    def _plain_config(self) -> dict[str, Any]:
        """The config of the subcommand as strings, numbers, lists and dicts."""
        text = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
        config: dict[str, Any] = yaml.safe_load(text)
        return config

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
            picture = free_path(folder / "wiring.png")
            save_figure(draw_architecture(network.wiring()), picture)
            rows.append(("picture", str(picture)))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            rows.append(("curves", f"tensorboard --logdir {folder}"))
        print(f"\n{format_table(rows)}")


def run(arguments: Sequence[str]) -> None:
    """Run one command of Lightning's; the first argument is its name."""
    # A switch needs no value in the other subcommands; here the parser wants one.
    WiringCLI(["--overwrite=true" if one == "--overwrite" else one for one in arguments])


class _Parser(LightningArgumentParser):
    """Says in one line what is wrong with an argument or a config."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error or os.environ.get("WIRING_DEBUG"):
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.split()[-1]
        command = f"wiring {name}" if name in WiringCLI.subcommands() else "wiring"
        fail(f"{one_line(message)} (see {command} --help)")


def _check_learners(callbacks: Any) -> None:
    """Find what Lightning would refuse in many words: two callbacks with the same state."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    learners = [callback for callback in given if isinstance(callback, WiringCallback)]
    for name, count in Counter(type(learner).__name__ for learner in learners).items():
        if count > 1:
            raise MisconfigurationException(
                f"The trainer has {count} {name} callbacks: leave one, it learns all gates."
            )
