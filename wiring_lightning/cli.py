"""The command line: LightningCLI with this package's classes, an `inspect` and a final report."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

# Imported so that configs can name these classes without their module.
import wiring_lightning.backbones
import wiring_lightning.callbacks
import wiring_lightning.data
import wiring_lightning.tasks  # noqa: F401
from wiring_lightning.__main__ import SUBCOMMANDS
from wiring_lightning.checkpoints import CheckpointError, load_checkpoint, load_weights
from wiring_lightning.report import format_table, summarize, summary_rows
from wiring_lightning.wiring import Wired, find_wired


class WiringTrainer(Trainer):
    """Lightning's Trainer, and one more entry point for the command line."""

    def inspect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,  # noqa: ARG002
        ckpt_path: str | None = None,
        format: Literal["table", "json"] = "table",
        figure: str | None = None,
    ) -> None:
        """Show what a network's wiring costs, all candidates against what is live.

        Args:
            model: the model of the config.
            datamodule: not used; a config for training may name one.
            ckpt_path: checkpoint whose weights and wiring are shown; a fresh network if not given.
            format: a table for people or JSON for programs.
            figure: file to draw the wiring into, such as wiring.png or wiring.svg.
        """
        if ckpt_path is not None:
            load_weights(model, ckpt_path)
        network = _wired(model)
        summary = summarize(network.wiring())
        if format == "json":
            print(json.dumps(summary, indent=2))
        else:
            print(format_table(summary_rows(summary)))
        if figure is not None:
            _draw(network, Path(figure))


class WiringCLI(LightningCLI):
    """`wiring fit | validate | test | predict | inspect --config FILE`."""

    def __init__(self, args: ArgsType = None) -> None:
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=WiringTrainer,
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
        return {name: inherited[name] for name in SUBCOMMANDS}

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
        if path and (Path(path).suffix or Path(path).exists()):  # not a keyword such as "last"
            load_checkpoint(path)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand == "inspect":  # needs none of the devices and loggers of the config
            return WiringTrainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False
            )
        return super().instantiate_trainer(**kwargs)

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
        if network is not None:
            rows += summary_rows(summarize(network.wiring()))
            rows.append(("picture", str(_draw(network, folder / "wiring.png"))))
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            rows.append(("curves", f"tensorboard --logdir {folder}"))
        print(f"\n{format_table(rows)}")


def run(arguments: Sequence[str]) -> None:
    """Run one command; a problem that the user can solve ends in one sentence and exit code 2."""
    try:
        WiringCLI(list(arguments))
    except (
        CheckpointError,
        FloatingPointError,
        MisconfigurationException,
        OSError,
        ValueError,
    ) as error:
        if os.environ.get("WIRING_DEBUG"):
            raise
        sys.stderr.write(f"wiring: error: {error}\n")
        raise SystemExit(2) from None


def _wired(model: LightningModule) -> Wired:
    network = find_wired(model)
    if network is None:
        raise MisconfigurationException(
            f"{type(model).__name__} holds no network with a `wiring()`; inspect needs one of "
            "wiring_lightning.backbones, or your own with that method."
        )
    return network


def _draw(network: Wired, path: Path) -> Path:
    from wiring_lightning.plots import draw_wiring, save_figure

    save_figure(draw_wiring(network.wiring()), path)
    return path
