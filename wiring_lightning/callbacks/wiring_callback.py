"""The base class of callbacks that learn a wiring: freezing, checks, and averages of weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning._checks import check_counts
from wiring_lightning.callbacks._at_start import (
    refuse_two_learners,
    refuse_untaught_in,
    refuse_without_hooks,
)
from wiring_lightning.callbacks._averages import Averages
from wiring_lightning.callbacks._between_fits import BetweenFits
from wiring_lightning.callbacks._copies import copies_inside
from wiring_lightning.callbacks._fit_parts import FitParts
from wiring_lightning.callbacks._last_of_all import LastOfAll
from wiring_lightning.callbacks._open_step import warn_of_open_step
from wiring_lightning.callbacks._other_states import warn_of_other_states
from wiring_lightning.callbacks._run_length import learning_epochs
from wiring_lightning.callbacks._unreached import begins_late, warn_of_unreached, without_effect


class WiringCallback(BetweenFits, ABC):
    """A callback that learns a wiring; `PhaseSchedule` calls its `set_lr` and `freeze`.

    A learner has a constraint, such as k weights in each group or K edges for each target; `broken`
    reports violations. It is checked before validation and testing, again at their first batch,
    before a checkpoint is saved, and at the end of the fit. A violation raises a `WiringError`, and
    so does a learned parameter or an optimizer that was replaced by another one during the fit.

    Averages of the weights, such as those of Lightning's `WeightAveraging`, mix the wirings of many
    steps. For validation, in checkpoints and after the fit they get a valid wiring (`settled`).

    A learner compares whole weights and scores, so strategies that give each process a part of
    them are refused when a fit starts: FSDP, model parallel, DeepSpeed. DDP works.

    A second fit with the same trainer and network, which Lightning lets go on where the first one
    ended, goes on with the learner's state. A fit with a new trainer starts anew. One that ends
    before its first step, as by an error, leaves learner and network as they were.

    Args:
        freeze_epoch: from the start of this epoch the wiring is fixed; never if not given.

    Raises:
        MisconfigurationException: if `freeze_epoch` is negative, the strategy is a sharded one, or
            an optimizer has no step hooks or holds the scores of gates that no callback learns.
        WiringError: as above.
    """

    learns_gates: ClassVar[bool] = True  # or else it chooses among weights
    has_rate: ClassVar[bool] = True  # whether there is a learning rate for `set_lr` to set
    freezes_itself: ClassVar[bool] = False  # whether it fixes its wiring without being asked to
    # Defaults for subclasses that do not call `__init__`.
    freeze_epoch: int | None = None
    phase_epoch: int | None = None  # from the start of this epoch a phase of this fit freezes
    _averages: Averages | None = None
    _saved_averages: Mapping[str, list[list[Tensor]]] = MappingProxyType({})
    _copied: Sequence[nn.Module] = ()  # copies inside of the module, found at the start of the fit
    _said = frozenset[str]()  # what was said of this fit
    _trains = False  # whether this fit has something to train
    _froze_before = False  # whether the wiring was fixed when this fit started

    def __init__(self, freeze_epoch: int | None = None) -> None:
        if freeze_epoch is not None:
            check_counts(0, error=self.mistake, freeze_epoch=freeze_epoch)
        self.freeze_epoch = freeze_epoch

    @property
    def frozen(self) -> bool:
        """Whether the wiring of this fit is fixed by now."""
        return False

    @property
    def was_frozen(self) -> bool:
        """Whether something has fixed a wiring that could learn."""
        return self.frozen and not self.freezes_itself

    @abstractmethod
    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the scores behind the wiring."""

    @abstractmethod
    def freeze(self) -> None:
        """Fix the wiring for good; calling it again changes nothing."""

    def settled(self, group: int, values: list[Tensor]) -> list[Tensor]:
        """Averaged values of a group, changed so that they have a valid wiring.

        Values that are valid are returned as the same objects.
        """
        return values

    def valid(self, group: int, values: list[Tensor]) -> bool:
        """Whether values of a group that may be from an earlier step have a wiring of their own."""
        return False

    def summary(self) -> str:
        """One line about the chosen weights or gates, printed when a fit starts."""
        return ""

    def unfinished(self, epochs: int) -> str | None:
        """What a fit of so many epochs does not reach, such as the freeze; `None` if nothing."""
        if self.freeze_epoch is None or self.frozen or epochs > self.freeze_epoch:
            return None
        return f"the wiring is to be frozen when epoch {self.freeze_epoch} (from 0) starts"

    def too_late(self, epochs: int) -> str | None:
        """What else comes after the last step of a fit of so many epochs; `None` if nothing."""
        return None

    def missed(self) -> str | None:
        """What else this fit, which is over, did not reach, such as a step; `None` if nothing."""
        return None

    def epochs_until_end(self, trainer: Trainer) -> int | None:
        """The number of epochs after which the fit stops, in `on_train_start`; `None` if never."""
        return learning_epochs(trainer)

    def check_freeze(self, epoch: int | None) -> None:
        """Raise an error if the wiring must not be frozen at the start of this epoch."""

    def let_go(self) -> None:
        """Remove all hooks: the fit has ended or failed."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A subclass calls this first."""
        if stage != "fit":
            return
        self._refuse_if_busy(trainer)
        if self._before is not None or self._averages is not None:
            # An error while another one was handled.
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, LastOfAll)]
            self._end(failed=True)
        if isinstance(trainer.strategy, _SHARDED):
            raise self.mistake(
                f"{type(trainer.strategy).__name__} gives each process a part of the weights, but "
                "a wiring is learned from whole ones: use strategy=ddp."
            )
        self._loaded, self.phase_epoch = False, None
        self._begin_fit(trainer, pl_module)

    def check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise an error if a fit must not start like this; a subclass calls this first.

        That is so if an optimizer has no hooks, if gates that nobody learns are in one, or if the
        fit goes on, but the network is not as the last one left it.
        """
        self._is_new = not self.state_dict()
        refuse_without_hooks(trainer.optimizers, type(self).__name__)
        refuse_untaught_in(trainer.optimizers, pl_module, find_learners(trainer))
        if self._changed:
            raise self.mistake(
                f"the trainer goes on after step {trainer.global_step}, but something has changed "
                "the weights since, such as an average or a checkpoint, or this trainer is a deep "
                "copy: give `fit` the `ckpt_path` to go on from, or use a new Trainer."
            )

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A subclass calls this at the end of its own method, when its wiring is known."""
        refuse_two_learners(self, find_learners(trainer))
        self._averages = Averages(self, trainer, pl_module)
        places = [place for group in self.places() for place in group]
        self._parts = FitParts(pl_module, places, trainer.optimizers)
        if summary := self.summary():
            rank_zero_info(f"{type(self).__name__}: {summary}")
        self._said, self._trains, self._froze_before = frozenset(), False, self.frozen
        self._wait_for_first_step(trainer.optimizers)

    def follow(self, trainer: Trainer) -> None:
        """Remember the optimizers of the trainer, whose steps the learner sees from now on."""
        if self._parts is not None:
            self._parts.optimizers = list(trainer.optimizers)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._find_averages()
        if find_learners(trainer)[0] is self:  # one says it for all
            warn_of_open_step(trainer)
        self._trains = True
        self._say_if_late(trainer)
        self._say_if_frozen_before(trainer)
        self._freeze_if_due(trainer)
        epochs = self.epochs_until_end(trainer)
        if epochs is not None:
            self._warn_if_unfinished(trainer, epochs)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._freeze_if_due(trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._before is None:
            self._stop_waiting()
        # Nothing follows an optimizer any more once gates are frozen.
        if self._parts is not None and not (self.learns_gates and self.frozen):
            self._raise(self._parts.unseen(trainer.optimizers))
        if self._averages is not None:
            self._averages.look(closely=batch_idx == 0)
            self._averages.settle_for_norms()

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        # A copy that the training step overwrote is still as the network, which moves next.
        if self._averages is not None:
            self._averages.look()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.concerns(trainer, pl_module):
            self._find_averages()
            self.check()

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Lightning's averages are in the network during the whole validation epoch.
        if self._averages is not None and trainer.state.fn == TrainerFn.FITTING:
            self._averages.settle()
        if batch_idx == 0 and self.concerns(trainer, pl_module):
            self.check_evaluated()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._averages is not None and self.concerns(trainer, pl_module):
            self._averages.restore()

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if not self.concerns(trainer, pl_module):
            return
        if self._averages is None or not self._averages.in_network:
            self.check()
        if self._averages is not None and self._averages.copies:
            checkpoint.setdefault(_AVERAGES, {})[self.state_key] = self._averages.state()

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._refuse_if_busy(trainer)
        self._saved_averages = checkpoint.get(_AVERAGES, {}).get(self.state_key, {})
        self._loaded = trainer.state.fn != TrainerFn.FITTING
        if not self._loaded:
            self._load_in_fit(trainer)
        if not self.learns_gates:
            warn_of_other_states(self, trainer, checkpoint)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = None  # also if there was no step
        if self._parts is not None:
            self._parts.moved = True  # such as back to the CPU
        self.check_parts()
        if self._averages is not None:
            self._averages.finish()
        self._warn_if_unfinished(trainer, trainer.current_epoch, over=True)
        self.check()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # What other callbacks, or the LightningModule's `on_fit_end`, have written is seen, too.
        if not self._is_busy(trainer):
            LastOfAll(self._finish).join(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._is_busy(trainer):
            return
        # Lightning does not call teardown after an exception. Callbacks that come later may still
        # save a checkpoint, in which averages must be settled.
        if self._averages is not None:
            self._averages.restore()
            self._averages.interrupted = True
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):  # not what says itself why
            self._warn_if_unfinished(trainer, trainer.current_epoch, over=True)
        self.let_go()
        LastOfAll(self._finish).join(trainer)

    def _finish(self, failed: bool) -> None:
        try:
            if not failed and self._parts is not None and self._parts.moved:  # at the end of a fit
                self.check()
        finally:
            self._end(failed)

    def _end(self, failed: bool) -> None:
        averages, self._averages = self._averages, None
        if averages is not None:
            averages.detach()
        self._saved_averages = {}
        self._parts = None
        self.let_go()
        self._put_back_network()
        if averages is not None:
            self._versions_at_end = [] if averages.in_network else self._versions()
        self._put_back_learner(failed)

    def find_copies(self, trainer: Trainer, module: LightningModule) -> Sequence[nn.Module]:
        """Find the copies inside of the module, which are no part of the network that learns.

        A subclass calls this when a fit starts, while the copies of a first fit are still equal.
        """
        name, known = type(self).__name__, self._saved_averages
        self._copied = copies_inside(trainer, module, known, name)
        return self._copied

    @property
    def copied(self) -> Sequence[nn.Module]:
        """The copies of the network that are known by now."""
        return self._copied if self._averages is None else self._averages.modules(self._copied)

    def _find_averages(self) -> None:
        if self._averages is not None:
            self._averages.find(list(self._saved_averages))
            self._averages.load_state(self._saved_averages)
            self._saved_averages = {}

    def _warn_if_unfinished(self, trainer: Trainer, epochs: int, over: bool = False) -> None:
        """Say, once, what a fit of so many epochs does not reach, or did not if it is over."""
        if trainer.fast_dev_run:
            return
        unseen = over and self._is_new and not self._trains
        found = [
            self.unfinished(0 if unseen else epochs),
            self.missed() if over else self.too_late(epochs),
        ]
        new = [reason for reason in found if reason is not None and reason not in self._said]
        self._said |= {*new}
        warn_of_unreached(type(self).__name__, new, epochs, over, unseen)

    def _say_if_late(self, trainer: Trainer) -> None:
        """Warn, once, of a training that has begun without this learner."""
        epoch, phase = trainer.current_epoch, self.phase_epoch
        behind = self.unfinished(1) if epoch and self.unfinished(epoch + 1) is None else None
        if phase is not None and 0 < phase <= epoch and not self._froze_before:
            behind = f"the wiring is to be frozen when epoch {phase} (from 0) starts"
        said = begins_late(0 if self._resumes else trainer.global_step, epoch, behind)
        if self._is_new and said is not None and said not in self._said:
            self._said |= {said}
            rank_zero_warn(f"{type(self).__name__}: {said}")

    def _say_if_frozen_before(self, trainer: Trainer) -> None:
        """Warn of a freeze that this fit did not ask for, as in a run that resumes after one."""
        own = f"freeze_epoch={self.freeze_epoch}"
        asked = {own: self.freeze_epoch, "the phase with freeze": self.phase_epoch}
        said = without_effect(asked, trainer.current_epoch, trainer.global_step)
        if self.was_frozen and said is not None:
            rank_zero_warn(f"{type(self).__name__}: {said}")

    def _freeze_if_due(self, trainer: Trainer) -> None:
        if self.freeze_epoch is not None and trainer.current_epoch >= self.freeze_epoch:
            self.freeze()


_AVERAGES = "wiring_averages"
_SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def find_learners(trainer: Trainer) -> list[WiringCallback]:
    """The callbacks of a trainer that learn a wiring, in its order."""
    callbacks: Sequence[Any] = trainer.callbacks
    return [callback for callback in callbacks if isinstance(callback, WiringCallback)]
