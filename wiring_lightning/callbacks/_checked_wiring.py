"""Checks of what a learner promises about its network: when, and what is said."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from wiring_lightning.callbacks._fit_parts import FitParts


class WiringError(RuntimeError):
    """The network breaks a constraint of its learner, such as the number of edges."""


class CheckedWiring(Callback):
    """A callback with a constraint on the network, which is checked.

    `check` looks when an evaluation begins, and `check_evaluated` at its first batch. In between
    are the hooks in which other code writes averages into the network.

    Raises:
        WiringError: if the network breaks the constraint, or a parameter or optimizer was replaced.
    """

    _parts: FitParts | None = None  # of the network while it is trained
    _loaded = False  # whether the network is that of a checkpoint, and nothing was trained since
    _denser: str | None = None  # what a checkpoint that was loaded has too many of

    def broken(self) -> str | None:
        """How the network violates the learner's constraint, with names; `None` if it does not."""
        return None

    def written(self) -> str | None:
        """What was written since `check` and violates the constraint; `None` if nothing."""
        problem = self.broken()
        return None if problem == self._denser else problem

    def check(self) -> None:
        """Raise a `WiringError` if something does not hold.

        A checkpoint that is loaded for a test or a validation may be from an earlier moment of the
        fit, when the network was denser. Then a line says so.
        """
        self.check_parts()
        problem = self.broken()
        self._denser = problem if self._loaded else None
        if problem is not None and self._loaded:
            rank_zero_info(
                f"{type(self).__name__}: the checkpoint that was loaded is not as sparse as asked "
                f"for: {problem}."
            )
        elif problem is not None:
            raise WiringError(
                f"{type(self).__name__}: {problem}. Something has changed them outside of the "
                "optimizer's step(), such as an optimizer that moves weights between its steps "
                "(SAM, schedule-free), or code that writes weights."
            )

    def check_parts(self) -> None:
        """Raise a `WiringError` if parameters that are learned were replaced in this fit."""
        if self._parts is not None:
            self._raise(self._parts.replaced())

    def check_evaluated(self) -> None:
        """Raise a `WiringError` if hooks have written something else since `check`."""
        problem = self.written()
        if problem is not None:
            raise WiringError(
                f"{type(self).__name__}: {problem}. A hook has written them when the evaluation "
                "began, such as an average of the weights, or of a schedule-free optimizer: "
                "average with Lightning's EMAWeightAveraging, or validate a copy of the network "
                "that is its average."
            )

    def concerns(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether it is this callback's network that a trainer validates, tests or saves."""
        return True

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.concerns(trainer, pl_module):
            self.check()

    @override
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and self.concerns(trainer, pl_module):
            self.check_evaluated()

    def _raise(self, problem: str | None) -> None:
        """Raise a `WiringError` if something is wrong with the parts of the fit."""
        if problem is not None:
            raise WiringError(f"{type(self).__name__}: {problem}")
