"""LightningCLI with this package's classes, an `inspect` and a final report."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from signal import SIGTERM
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

# Imported so that configs can name these classes without their module.
import wiring_lightning.backbones
import wiring_lightning.data
import wiring_lightning.tasks  # noqa: F401
from wiring_lightning._checks import check_counts, has_foreign_code
from wiring_lightning.backbones._downloads import without_downloads
from wiring_lightning.callbacks import PredictionWriter
from wiring_lightning.callbacks._gate_learner import GateLearner
from wiring_lightning.callbacks.sparse_layers import find_sparse_learners
from wiring_lightning.checkpoints import AtomicCheckpointIO, check_checkpoint, load_checkpoint
from wiring_lightning.cli.arguments import TRUST, configs_first
from wiring_lightning.cli.class_changes import told_class_changes
from wiring_lightning.cli.curves import default_logger
from wiring_lightning.cli.first_work import (
    FirstWork,
    check_worked,
    discard_beginning,
    discard_config,
)
from wiring_lightning.cli.found import write_found
from wiring_lightning.cli.help import in_order
from wiring_lightning.cli.inspect import UNUSED, InspectParser, WiringTrainer, without_unused
from wiring_lightning.cli.keep_sparse import KeepSparse
from wiring_lightning.cli.launchers import check_launcher
from wiring_lightning.cli.matmul import HELP, Precision, matmul_precision, precision_for
from wiring_lightning.cli.messages import note
from wiring_lightning.cli.monitors import explain_monitor
from wiring_lightning.cli.parser import WiringParser
from wiring_lightning.cli.picture import draw_network
from wiring_lightning.cli.report import format_table, network_rows
from wiring_lightning.cli.requeue import JobNote, find_requeued
from wiring_lightning.cli.resume import (
    choose_no_other,
    explain,
    find_checkpoint,
    is_word,
    left_by_exception,
)
from wiring_lightning.cli.resumed import Resumed
from wiring_lightning.cli.run_folder import (
    SaveConfig,
    begins,
    check_savers,
    claim_folder,
    go_on_in,
    release_folder,
)
from wiring_lightning.cli.scores import CHANCE, close_to_chance, score_rows
from wiring_lightning.cli.short_names import own_classes_preferred
from wiring_lightning.cli.trainer_options import check_callbacks, max_epochs_of, say_what_is_misread
from wiring_lightning.cli.trust import only_known_kinds
from wiring_lightning.files import free_path
from wiring_lightning.plots import save_figure
from wiring_lightning.wiring import find_wired

_WEIGHTS_ONLY = (
    "true, as by default: the checkpoint may hold tensors and plain values only. false lets it "
    "name any function, which is called while it is read: only for a file that you trust, and that "
    "your own callbacks have put objects into"
)


class WiringCLI(LightningCLI):
    """`wiring fit | validate | test | predict | inspect --config FILE`."""

    trainer: WiringTrainer
    subcommand: str

    def __init__(self, args: ArgsType = None) -> None:
        self._checkpoint: dict[str, Any] | None = None
        given = args if isinstance(args, list) else sys.argv[1:]
        if given and given[0] in (known := self.subcommands()):
            # The parser of each takes a while to make, so only that of the first word is made.
            self.subcommands = lambda: {given[0]: known[given[0]]}  # type: ignore[method-assign]
        # The optimizer is built while the command runs.
        with own_classes_preferred(), only_known_kinds():
            super().__init__(
                model_class=LightningModule,
                datamodule_class=LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_class=WiringTrainer,
                parser_class=WiringParser,
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
    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        self.parser_class = InspectParser if subcommand == "inspect" else WiringParser
        if subcommand == "inspect":
            kwargs["description"] += UNUSED
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        assert isinstance(parser, WiringParser)
        parser.subcommand = subcommand
        parser.__dict__["_action_groups"] = in_order(parser._action_groups)
        for action in parser._actions:
            if action.dest == "weights_only" and subcommand != "inspect":
                action.help = _WEIGHTS_ONLY
        return parser

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        assert isinstance(parser, WiringParser)
        if isinstance(parser, InspectParser):
            parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
            parser.add_argument("--trust", action="store_true", help=TRUST)
        else:
            parser.add_argument(
                "--float32_matmul_precision", type=Precision | None, default=None, help=HELP
            )
            super().add_core_arguments_to_parser(parser)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # Without Lightning's warning about arguments that come from a Python call.
        given = list(sys.argv[1:]) if args is None else args
        assert isinstance(given, list)
        given = configs_first(given)
        if "inspect" in given:
            given = without_unused(given)
            inspect_parser = self._parser("inspect")
            assert isinstance(inspect_parser, InspectParser)
            inspect_parser.trust = "--trust" in given
        with told_class_changes():
            self.config = parser.parse_args(given)

    @override
    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool):
            check_counts(0, most=2**32 - 1, seed_everything=seed)
        super()._set_seed()

    @override
    def _parse_ckpt_path(self) -> None:
        # Lightning would let hyper-parameters of the checkpoint override the command line, which
        # counts here. The file is read to say early and clearly if it is damaged.
        subcommand = self.config.subcommand
        path = self.config[subcommand].ckpt_path
        if path is not None and not is_word(path) and subcommand != "inspect":
            self._read(path)

    def _read(self, path: str) -> None:
        weights_only = self.config[self.config.subcommand].get("weights_only")
        self._checkpoint = load_checkpoint(path, weights_only is not False)

    @override
    def instantiate_classes(self) -> None:
        with without_downloads() if self.subcommand == "inspect" else nullcontext():
            super().instantiate_classes()

    @override
    def after_instantiate_classes(self) -> None:
        if self.subcommand == "inspect":  # it reads the file itself
            return
        given = self.config_init[self.subcommand]
        if self.subcommand == "fit" and given.ckpt_path is None and not self.trainer.fast_dev_run:
            self._go_on_unasked()
        if is_word(given.ckpt_path):
            given.ckpt_path = find_checkpoint(
                self.trainer, given.ckpt_path, self.subcommand, self._plain_config()
            )
            if given.ckpt_path is not None:
                self.config[self.subcommand].ckpt_path = given.ckpt_path  # for the saved config
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
    def _dump_config(self) -> None:
        # As Lightning, without a check of what was parsed a moment ago.
        if not hasattr(self, "config_dump"):
            assert isinstance(self.parser, WiringParser)
            values = self.parser.values_of(self.config, skip_link_targets=False)
            self.config_dump = values[self.config.subcommand]

    def _go_on_unasked(self) -> None:
        """Choose the checkpoint with which a fit goes on without being told."""
        given = self.config_init.fit
        root, weights_only = str(self.trainer.default_root_dir), given.weights_only is not False
        requeued = find_requeued(root, self._plain_config, weights_only)
        if requeued is not None:
            path, folder = requeued
            go_on_in(self.trainer, folder)
        elif (left := left_by_exception(self.trainer)) is not None:
            path = left
        else:
            return
        self._read(path)
        given.ckpt_path = self.config.fit.ckpt_path = path

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand == "inspect":  # needs none of the devices and loggers of the config
            inspecting = WiringTrainer(
                accelerator="cpu", devices=1, logger=False, enable_checkpointing=False
            )
            parser = self._parser("inspect")
            assert isinstance(parser, InspectParser)
            inspecting.data = parser.given.get("data")
            return inspecting
        given = self.config_init[self.subcommand].trainer
        check_callbacks(given.callbacks)
        say_what_is_misread(given)
        if given.max_epochs is None:
            kwargs |= max_epochs_of(given.callbacks, self.subcommand)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (AttributeError, KeyError, TypeError) as error:
            if has_foreign_code(error):
                raise
            raise MisconfigurationException(
                f"The trainer cannot be built from its options: {error}"
            ) from error
        check_launcher(trainer)
        if given.logger in (None, True):
            trainer.loggers = [
                default_logger(one) if type(one) is TensorBoardLogger else one
                for one in trainer.loggers
            ]
        callbacks = [type(callback) for callback in trainer.callbacks]
        if self.subcommand == "predict" and not any(
            issubclass(kind, BasePredictionWriter) for kind in callbacks
        ):
            trainer.callbacks.append(PredictionWriter())
        trainer.callbacks[:0] = [FirstWork(), JobNote(), Resumed()]
        if self.subcommand == "fit" and trainer.checkpoint_callbacks:
            trainer.callbacks.append(KeepSparse())  # after those that save checkpoints
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # none that the user chose
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        try:
            if subcommand != "inspect" and not self.trainer.fast_dev_run:
                given = self.config[subcommand].ckpt_path
                claim_folder(self.trainer, begins(subcommand, given))
                if subcommand == "fit":
                    check_savers(self.trainer)
            if subcommand != "inspect" and self.config_init[subcommand].ckpt_path is None:
                choose_no_other(self.trainer)
            with matmul_precision(self._choose_precision()):
                super()._run_subcommand(subcommand)
            check_worked(self.trainer, subcommand)
        except Exception as error:
            discard_beginning(self.trainer)
            explain_monitor(error, self.trainer)
            explain(error, self.config_init[subcommand].get("ckpt_path"))
        except SIGTERMException:  # it would end the process as if all had been done
            note("interrupted")
            raise SystemExit(128 + SIGTERM) from None
        finally:
            release_folder(self.trainer)

    def _choose_precision(self) -> Precision | None:
        """The precision of this run, which its saved config shows."""
        if self.subcommand == "inspect":
            return None
        given = self.config[self.subcommand]
        precision = precision_for(given.float32_matmul_precision, self.trainer.accelerator)
        given.float32_matmul_precision = precision
        return precision

    def after_inspect(self) -> None:
        """Write the architecture that was asked for; only the command line has its config."""
        folder = self.config.inspect.found
        if folder is not None:
            parser = self._parser("inspect")
            assert isinstance(parser, InspectParser)
            built = parser.whole_config(self._plain_config()["model"])
            path = write_found(self.model, built, Path(folder))
            sys.stderr.write(f"wiring: wrote {path}\n")  # not into the JSON

    def _plain_config(self) -> dict[str, Any]:
        """The config of the subcommand as strings, numbers, lists and dicts."""
        parser = self._parser(self.subcommand)
        assert isinstance(parser, WiringParser)
        return parser.values_of(self.config[self.subcommand])

    def after_fit(self) -> None:
        """Test the trained network and print the report."""
        trainer = self.trainer
        discard_config(trainer)
        if trainer.fast_dev_run or trainer.interrupted:
            return
        if trainer.global_step == 0:
            raise MisconfigurationException(
                "No step was trained, so there is nothing to test: max_epochs, max_steps or "
                "limit_train_batches is 0."
            )
        tested, problem = self._test()
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks take part in log_dir
        if trainer.is_global_zero and (tested or problem is None):
            self._report(tested, folder)
        if problem is not None:
            raise problem

    def _test(self) -> tuple[dict[str, float], OSError | None]:
        """What the test measured, also if it could not be written, as on a full disk."""
        choose_no_other(self.trainer)
        try:
            tested = self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        except OSError as error:
            measured = self.trainer.callback_metrics.items()
            return {name: float(v) for name, v in measured if name.startswith("test/")}, error
        return {name: value for metrics in tested for name, value in metrics.items()}, None

    def _report(self, tested: Mapping[str, float], folder: Path) -> None:
        """Print first, then draw: a full disk must not lose what was measured."""
        rows = [(name.replace("/", " "), f"{value:.4f}") for name, value in tested.items()]
        rows += [("steps", self._steps())]
        learners = find_sparse_learners(self.trainer)
        layers = learners[-1].layer_costs(self.trainer, self.model, saved=True) if learners else []
        rows += [*network_rows(self.model, layers), *score_rows(self.model)]
        curves = [one.log_dir for one in self.trainer.loggers if isinstance(one, TensorBoardLogger)]
        rows += [("curves", f"tensorboard --logdir {Path(where)}") for where in curves]
        width = max(len(label) for label, _ in rows)
        print(f"\n{format_table(rows)}", flush=True)
        if (network := find_wired(self.model)) is not None:
            picture = free_path(folder / "wiring.png")
            save_figure(draw_network(network), picture)
            print(format_table([("picture", str(picture))], first=width))
        if close_to_chance(self.model):
            print(CHANCE)

    def _steps(self) -> str:
        """How many steps the weights have learned, and how many each wiring."""
        callbacks: Sequence[Any] = self.trainer.callbacks
        learned = [
            f"{type(callback).__name__} learned in {callback.optimizer.group['steps']:,}"
            for callback in callbacks
            if isinstance(callback, GateLearner)
            and callback.optimizer is not None
            and "steps" in callback.optimizer.group
        ]
        return ", ".join([f"{self.trainer.global_step:,}", *learned])


def run(arguments: Sequence[str]) -> None:
    """Run one command of Lightning's; the first argument is its name."""
    # A switch needs no value in the other subcommands; here the parser wants one.
    WiringCLI(["--overwrite=true" if one == "--overwrite" else one for one in arguments])
