"""MaskConnect and GateConnect as a callback for any LightningModule."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_seed, counted, listed
from wiring_lightning.callbacks._begins import Begins
from wiring_lightning.callbacks._gate_learner import GateLearner
from wiring_lightning.callbacks._run_length import steps_in
from wiring_lightning.callbacks.own_parameters import average_over_ranks
from wiring_lightning.nn import Gate, find_gates
from wiring_lightning.optim import GateSGD, parameters_of, step_was_skipped
from wiring_lightning.optim._gate_variants import PAPERS_RULE, Explore, Update, check_variant
from wiring_lightning.optim._step_hooks import StepHooks


class MaskConnect(Begins, GateLearner[GateSGD]):
    """Learn which earlier blocks or branches feed each block (MaskConnect, GateConnect).

    The callback finds every `nn.Gate` in the LightningModule and moves its scores from your
    optimizer to `optim.GateSGD`. After each step of your optimizer, it updates the scores and
    samples a new wiring. Accumulated batches count as one step, and a step that a gradient scaler
    skips changes nothing. Gradient clipping does not include the gates. With several optimizers, a
    gate is updated after a step of the one that held its scores.

    Under DDP the callback averages the gradients of the gates itself, so all ranks have the same
    scores and wiring, and can freeze in the middle of a run.

    Args:
        lr: learning rate of the scores. The papers use 0.2 for ResNeXt and 0.3 for ResNet over
            tens of thousands of steps; shorter runs need more. `PhaseSchedule` can change it.
        freeze_epoch: from the start of this epoch the wiring is fixed to the top-K one. Leave it
            out if a `PhaseSchedule` freezes, or to learn until the end.
        normalize: write the normalised scores back after each step (see `optim.GateSGD`).
        low: lower end of the interval that scores are clipped to.
        high: upper end of that interval.
        seed: seed of the draws.
        update: `"project"` for the Euclidean projection instead of clip and normalise.
        center: subtract the mean over the candidates from the gradient of each target.
        balance: keep the sums of each source's scores equal, and give no source more than
            `ceil(T * K / C)` readers at the freeze.
        draw_every: a wiring is drawn every so many steps, and held in between.
        explore: `"swap"` to exchange single edges every `draw_every` steps instead of drawing;
            `lr` is then the probability that a target exchanges one.
        anneal_steps: for `"swap"`, the number of steps in which that probability falls to 0. With
            a `freeze_epoch` it falls until then by default.

    `update` and the options after it are variants of the papers' rule, which is the default:
    `optim.GateSGD` has their definitions. A run that resumes goes on with the rule and the rate of
    its checkpoint, and a warning says so if other ones are given.

    Raises:
        MisconfigurationException: if a number is out of range, options do not go together, or the
            LightningModule has no gate to learn or no optimizer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[MaskConnect(lr=0.2, freeze_epoch=30)], max_epochs=80,
        ...                   logger=False, enable_checkpointing=False, accelerator="cpu")
    """

    learned = "scores"

    def __init__(
        self,
        lr: float = 0.2,
        freeze_epoch: int | None = None,
        normalize: bool = True,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
        update: Update = "normalize",
        center: bool = False,
        balance: bool = False,
        draw_every: int = 1,
        explore: Explore = "sample",
        anneal_steps: int | None = None,
    ) -> None:
        super().__init__(lr, freeze_epoch)
        if not 0 <= low < high < math.inf:
            raise self.mistake(f"scores are clipped to 0 <= low < high, got [{low}, {high}].")
        self.normalize, self.low, self.high = normalize, low, high
        self.update, self.center, self.balance = update, center, balance
        self.draw_every, self.explore, self.anneal_steps = draw_every, explore, anneal_steps
        try:
            check_variant(lr=lr, **self.options)
        except ValueError as error:
            raise self.mistake(str(error)) from None
        check_seed(seed, error=self.mistake)
        self.seed = seed
        self._trainer: Trainer | None = None
        self._owners: list[_Owner] = []
        self._hooks: list[StepHooks] = []
        self._names: list[str] = []
        self._stepped = False  # whether there was a step in this fit
        self._reached: set[Gate] = set()  # by a gradient

    @property
    def options(self) -> dict[str, Any]:
        """The options of the rule, as `optim.GateSGD` takes them."""
        return {name: getattr(self, name) for name in ("normalize", "low", "high", *PAPERS_RULE)}

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        return {**super().kept_arguments, **self.options, "seed": self.seed}

    @property
    def gates(self) -> list[Gate]:
        """The gates that are learned; empty before the fit starts."""
        return [] if self.optimizer is None else self.optimizer.gates

    @override
    def broken(self) -> str | None:
        wrong = [
            f"{name} has a target with {int(count)} edges instead of {int(wanted)}"
            for name, gate in zip(self._names, self.gates, strict=True)
            if gate.mode != "real"
            for count, wanted in zip(gate.active.sum(1), gate.edges_per_target, strict=True)
            if count != wanted
        ]
        return wrong[0] if wrong else None

    @override
    def forget(self) -> None:
        super().forget()
        self._names = []

    @override
    def summary(self) -> str:
        edges = sum(int(gate.edges_per_target.sum()) for gate in self.gates)
        candidates = sum(int(gate.usable.sum()) for gate in self.gates)
        return f"{counted(len(self.gates), 'gate')}, {edges:,} of {candidates:,} connections active"

    @override
    def gate_names(self, module: LightningModule) -> list[str]:
        gates = find_gates(module)
        if not gates:
            raise MisconfigurationException(
                f"MaskConnect found no gate to learn in {type(module).__name__}: build the "
                'backbone with wiring="learned", put `wiring_lightning.nn.Gate` into your own '
                "network, or remove the callback."
            )
        return list(gates)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.find_begin(trainer)
        self.check_start(trainer, pl_module)
        self.gate_names(pl_module)  # an error if there is none
        copies = self.find_copies(trainer, pl_module)  # such as a moving average
        copied = {id(module) for copy in copies for module in copy.modules()}
        found = {n: gate for n, gate in find_gates(pl_module).items() if id(gate) not in copied}
        self._trainer, self._names, gates = trainer, list(found), list(found.values())
        self._stepped, self._reached = False, set()
        self.keep(self.places_of(gates))
        try:
            self.optimizer = GateSGD(gates, self.lr, seed=self.seed, **self._options(trainer))
        except ValueError as error:
            raise self.mistake(str(error)) from None
        self.restore()
        self._owners = _owners(trainer.optimizers, gates, self.take_over(trainer))
        for owner in self._owners:
            if not pl_module.automatic_optimization:
                owner.mark_if_empty()
            after = partial(self._after_step, owner)
            self._hooks.append(StepHooks(owner.optimizer, after=after))
        self.remember()
        super().on_fit_start(trainer, pl_module)

    def _options(self, trainer: Trainer) -> dict[str, Any]:
        """The options of the optimizer; swaps end at the freeze if nothing else is said."""
        if self.explore != "swap" or self.anneal_steps is not None or not self.freeze_epoch:
            return self.options
        batches = self.epoch_batches(trainer)
        steps = steps_in(trainer, self.freeze_epoch, batches)
        if not steps:
            raise self.mistake(
                "how many steps there are until the freeze is not known: give anneal_steps."
            )
        self.count_on("anneal_steps")
        # What is over counts if this learner begins late; one that goes on has its own number.
        over = self._begin.before(trainer, batches)
        return {**self.options, "anneal_steps": max(steps - over, 1)}

    @override
    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        super().on_before_backward(trainer, pl_module, loss)
        # With several optimizers, a backward pass also reaches gates of another optimizer.
        if not pl_module.automatic_optimization:
            for owner in self._owners:
                owner.before_backward()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for owner in self._owners:
            owner.after_backward()

    def _after_step(self, owner: "_Owner", *arguments: Any) -> None:
        """Update the gates of one of the user's optimizers after its step."""
        assert self.optimizer is not None
        assert self._trainer is not None
        self._stepped = True
        learning = [gate for gate in owner.gates if gate.learnable]
        skipped = not learning or step_was_skipped(owner.optimizer)
        if not skipped:  # on all ranks, whatever has a gradient on this one
            scores = [gate.scores for gate in learning]
            average_over_ranks(scores, self._trainer, self._scale(scores[0]))
        reached = {gate for gate in learning if gate.scores.grad is not None}
        self._reached |= reached
        if skipped or not reached:
            return
        others = [other for other in self._owners if other is not owner]
        for other in others:
            other.hide_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.remember()
        for other in others:
            other.show_gradients()

    def _scale(self, scores: Tensor) -> Tensor | None:
        """The factor of the gradients with mixed precision, as a tensor: nothing waits for it."""
        assert self._trainer is not None
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is None:
            return None
        one = torch.ones((), dtype=torch.float32, device=scores.device)
        scale: Tensor = scaler.scale(one)
        return scale

    @override
    def freeze(self) -> None:
        self._say_what_did_not_learn()
        super().freeze()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._say_what_did_not_learn()
        super().on_fit_end(trainer, pl_module)

    def _say_what_did_not_learn(self) -> None:
        """Name the gates that are not frozen yet, and that no gradient has reached."""
        still = [
            name
            for name, gate in zip(self._names, self.gates, strict=True)
            if gate.learnable
            and gate.scores.requires_grad
            and gate not in self._reached
            and gate.choice().learnable.any()  # or else it takes all candidates whatever they are
        ]
        if still and self._stepped:
            rank_zero_warn(
                f"MaskConnect: no gradient has reached {listed(still)} in this fit, so their "
                "wiring was not learned: use these gates in the forward pass, and detach nothing."
            )

    @override
    def let_go(self) -> None:
        for hooks in self._hooks:
            hooks.remove()
        self._owners, self._hooks = [], []
        self._trainer = None
        super().let_go()


@dataclass(eq=False)
class _Owner:
    """One of the user's optimizers, and the gates whose scores were taken out of it.

    In manual optimization the user zeroes gradients and toggles optimizers, which no longer reaches
    the scores. So the weights that are still in the optimizer show what to do with the scores. An
    optimizer of scores alone gets a number for that.
    """

    optimizer: Optimizer
    gates: list[Gate]
    weights: list[Tensor]
    saved: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)  # scores, gradients
    mark: nn.Parameter | None = None

    def mark_if_empty(self) -> None:
        """Put a number into an optimizer that has no weight of its own."""
        if not self.weights:
            self.mark = nn.Parameter(self.gates[0].scores.new_zeros(1))
            self.optimizer.param_groups[0]["params"].append(self.mark)
            self.weights = [self.mark]

    def before_backward(self) -> None:
        if all(weight.grad is None or not weight.grad.any() for weight in self.weights):
            for gate in self.gates:  # the user has called zero_grad
                gate.scores.grad = None
        if not any(weight.requires_grad for weight in self.weights):
            # Another optimizer is toggled: this backward pass must not change these gradients.
            self.hide_gradients()

    def after_backward(self) -> None:
        self.show_gradients()
        if self.mark is not None and self.mark.requires_grad:
            self.mark.grad = torch.ones_like(self.mark)  # until the user calls zero_grad

    def hide_gradients(self) -> None:
        self.saved = [(gate.scores, gate.scores.grad) for gate in self.gates]
        for scores, _ in self.saved:
            scores.grad = None

    def show_gradients(self) -> None:
        for scores, gradient in self.saved:
            scores.grad = gradient
        self.saved = []


def _owners(
    optimizers: list[Optimizer], gates: list[Gate], followers: list[list[Tensor]]
) -> list[_Owner]:
    """The user's optimizers whose steps trigger updates, each with its gates."""
    by_scores = {id(gate.scores): gate for gate in gates}
    owners = []
    for optimizer, scores in zip(optimizers, followers, strict=True):
        weights = parameters_of(optimizer)
        own = [by_scores[id(score)] for score in scores]
        if own:
            owners.append(_Owner(optimizer, own, [w for w in weights if w.requires_grad]))
    return owners
