"""Budgeted Super Networks as a callback for any LightningModule."""

import math
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_number, check_seed, counted
from wiring_lightning.callbacks._gate_learner import GateLearner
from wiring_lightning.callbacks._returned_losses import returned_losses
from wiring_lightning.callbacks._searched import (
    Searched,
    find_searched,
    refuse_synchronised,
    some_gates,
)
from wiring_lightning.callbacks.own_parameters import average_over_ranks
from wiring_lightning.callbacks.search_numbers import Sampled, gate_numbers
from wiring_lightning.costs import (
    ConfiguredCost,
    Cost,
    CostName,
    SequentialSteps,
    multiply_adds,
    parameters,
)
from wiring_lightning.costs.named import as_cost
from wiring_lightning.costs.noisy import without_noise
from wiring_lightning.costs.prices import as_prices, name_of_cost
from wiring_lightning.costs.scheduling import Order
from wiring_lightning.functional import budgeted_objective, derived_seed
from wiring_lightning.optim import Reinforce, step_was_skipped
from wiring_lightning.optim._step_hooks import StepHooks
from wiring_lightning.wiring import Wiring

# Of a smaller budget no penalty is computed: float32 could not hold it times a cost.
_LEAST_BUDGET = 1e-20


class BudgetedSearch(GateLearner[Reinforce]):
    """Search for an architecture within a budget while its weights train (BSN).

    In training mode a super-network samples one architecture per example. After each optimizer
    step this callback updates the probabilities of the edges (`optim.Reinforce`). It follows the
    policy gradient of `loss + penalty * max(0, cost - budget)`; the cost need not be
    differentiable. Accumulated batches count as one step, and a step that a gradient scaler skips
    changes nothing. Under DDP every rank samples architectures for its own examples, and the
    gradients are averaged, so all ranks have the same probabilities.

    `training_step` must return the loss of each example and their mean:
    `{"loss": losses.mean(), "losses": losses.detach()}`, as `ClassificationTask` does. A step whose
    losses are not finite leaves the probabilities as they are, and a warning after the epoch
    counts such steps. Costs that are not finite are an error.

    Logs after each epoch under `search/`:

    - `entropy_bits`: entropy of the sampled architecture, and `entropy`, the mean over its edges:
      1 if every one has probability 1/2, 0 if all are 0 or 1. A freeze leaves both as they are;
    - `near_0`, `near_1`: share of probabilities below 0.05 and above 0.95;
    - `cost_best`: cost of the most probable architecture, without the noise of a
      `costs.NoisyCost`, and `budget`;
    - `cost_sampled`, `within_budget`: mean cost of the architectures that were sampled in the
      epoch, and share of them within the budget.

    Args:
        budget: the cost up to which there is no penalty, in the units of the cost.
        cost: `"multiply_adds"`, `"parameters"`, `"sequential_steps"` or `"latency"`, or a function
            from a `Wiring` to its cost, such as `costs.SequentialSteps(machines=4)`.
        penalty: lambda, added to the loss for each unit of cost above the budget. By default
            computed from `relative_penalty`.
        relative_penalty: lambda times 10^m, where m is the order of magnitude of the budget. The
            paper tries values from 0.1 to 10.
        lr: learning rate of the logits of the probabilities. `PhaseSchedule` can change it.
        warmup_epochs: number of epochs before the search, which train the whole super-network; 50
            in the paper.
        freeze_epoch: from the start of this epoch the architecture is fixed to the most probable
            one. Leave it out if a `PhaseSchedule` freezes, or to search until the end.
        machines: for `"sequential_steps"`, number of nodes that can run at the same time.
        order: for `"sequential_steps"`, which nodes start first; see `costs.SequentialSteps`.
        baseline: whether to subtract the mean objective of the other examples.
        seed: seed of the draws.

    Raises:
        MisconfigurationException: if a number is out of range, or the LightningModule has not
            exactly one super-network, has no optimizer, returns no losses, or has SyncBatchNorm on
            several ranks; or if a cost is not one finite number for each architecture.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> search = BudgetedSearch(cost="parameters", budget=270_000, warmup_epochs=50)
        >>> search.absolute_penalty
        1e-05
        >>> trainer = Trainer(callbacks=[search], logger=False, enable_checkpointing=False,
        ...                   accelerator="cpu")
    """

    learned = "logits"

    def __init__(
        self,
        budget: float,
        cost: CostName | ConfiguredCost | Cost = "multiply_adds",
        penalty: float | None = None,
        relative_penalty: float = 1.0,
        lr: float = 0.1,
        warmup_epochs: int = 0,
        freeze_epoch: int | None = None,
        machines: int = 1,
        baseline: bool = True,
        seed: int = 0,
        order: Order = "critical_path",
    ) -> None:
        super().__init__(lr, freeze_epoch)
        if isinstance(budget, Tensor) and budget.numel() == 1:
            budget = budget.item()  # such as a share of what a cost gave
        numbers = {"budget": budget, "relative_penalty": relative_penalty,
                   "penalty": 0 if penalty is None else penalty}  # fmt: skip
        for name, number in numbers.items():
            check_number(name, number, error=self.mistake)
        if penalty is None and budget < _LEAST_BUDGET:
            raise self.mistake(
                f"a budget of {budget:g} has no order of magnitude to compute a penalty from; give "
                "an absolute penalty."
            )
        check_counts(0, error=self.mistake, warmup_epochs=warmup_epochs)
        check_seed(seed, error=self.mistake)
        self.warmup_epochs = warmup_epochs
        if freeze_epoch is not None:
            self.check_freeze(freeze_epoch)
        self.cost, self.machines, self.order = cost, machines, order
        self._price = self._find_price()
        self.budget = budget
        self.penalty, self.relative_penalty = penalty, relative_penalty
        self.baseline, self.seed = baseline, seed
        self._searched: Searched | None = None
        self._hooks: StepHooks | None = None
        self._stepped = False
        self._batches = 0
        self._sampled = Sampled()
        self._not_finite: Tensor | None = None  # on a device: steps of the epoch without a gradient
        self._best_price: float | None = None  # of the most probable architecture
        self._moved = False  # whether a batch of this fit may have changed that since

    @property
    def absolute_penalty(self) -> float:
        """Lambda: the penalty that a unit of cost above the budget adds to the loss."""
        if self.penalty is not None:
            return self.penalty
        return self.relative_penalty / 10.0 ** math.floor(math.log10(self.budget))

    @property
    @override
    def kept_arguments(self) -> dict[str, Any]:
        return {**super().kept_arguments, "baseline": self.baseline}

    @override
    def broken(self) -> str | None:
        return None  # any set of edges is valid; `on_fit_end` warns if the last one is useless

    @override
    def summary(self) -> str:
        assert self._searched is not None
        drawn = int(self._searched.gate.learnable_edges.sum())
        return f"{drawn:,} edges are drawn; {self._cost_name} within {self.budget:,.10g}"

    @override
    def unfinished(self, epochs: int) -> str | None:
        if epochs <= self.warmup_epochs and not self.frozen:
            return f"the search is to begin after {counted(self.warmup_epochs, 'epoch')} of warm-up"
        return super().unfinished(epochs)

    @override
    def check_freeze(self, epoch: int | None) -> None:
        if epoch is not None and epoch <= self.warmup_epochs:
            raise self.mistake(
                "the search lasts from the end of the warm-up to the freeze, but warmup_epochs is "
                f"{self.warmup_epochs} and freeze_epoch is {epoch}."
            )

    @override
    def gate_names(self, module: LightningModule) -> list[str]:
        return list(some_gates(module))  # those of copies, too, which are not known in `setup`

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and isinstance(trainer.strategy, DDPStrategy):
            # A module that is in no sampled architecture of a rank gets no gradient there.
            trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check_start(trainer, pl_module)
        copies = self.find_copies(trainer, pl_module)  # such as a moving average
        searched = self._searched = find_searched(pl_module, copies)
        refuse_synchronised(searched, trainer)
        self.keep(self.places_of([searched.gate]))
        self.optimizer = Reinforce([searched.gate], self.lr, self.baseline)
        self._batches, self._sampled, self._stepped = 0, Sampled(), False
        self._not_finite, self._best_price, self._moved = None, None, False
        self.restore()
        self._price = self._find_price()  # the cost may be another one than in the last fit
        if isinstance(self._price, ConfiguredCost):
            self._price.bind(searched.network)
        if isinstance(self._price, SequentialSteps) or self._price in (multiply_adds, parameters):
            self._warn_if_never_binding(searched.wiring)  # other costs may be slow, or noisy
        owner = next(
            optimizer
            for optimizer, own in zip(trainer.optimizers, self.take_over(trainer), strict=True)
            if own
        )
        self._hooks = StepHooks(owner, after=self._after_step)
        self.remember()
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        assert self._searched is not None
        gate, self._stepped = self._searched.gate, False
        gate.sampling = trainer.current_epoch >= self.warmup_epochs
        if batch_idx == 0:
            # Not in `on_train_epoch_end`, which a run that resumes after a last batch has no more.
            self._sampled = Sampled()
            self._warn_if_not_finite()
        self._batches += 1
        state = (self.seed, self._batches, trainer.global_rank)
        gate.seed(derived_seed(*state, 0), repeat=True)
        if isinstance(self._price, ConfiguredCost):
            self._price.seed(derived_seed(*state, 1))

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert self.optimizer is not None
        assert self._searched is not None
        gate, self._best_price, self._moved = self._searched.gate, None, True
        # With manual optimization, a training step that returns nothing is the usual one.
        by_hand = self._stepped and not pl_module.automatic_optimization
        losses = returned_losses(outputs, pl_module, must=by_hand)
        if not gate.learnable or not gate.sampling:
            return
        if losses is not None:
            self._observe(losses)
        if not self._stepped:
            return
        average_over_ranks([gate.logits], trainer)
        if gate.logits.grad is not None:
            self._count_if_not_finite(gate.logits.grad)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.remember()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._searched is not None
        numbers = gate_numbers(self._searched.gate)
        self._best_price, self._moved = self._price_of_best(self._searched), False
        numbers |= {"cost_best": self._best_price, "budget": self.budget}
        numbers |= self._sampled.on_all_ranks(trainer).means()
        named = {f"search/{name}": value for name, value in numbers.items()}
        pl_module.log_dict(named, on_step=False, on_epoch=True)
        self._warn_if_not_finite()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        assert self._searched is not None
        best = self._searched.network.wiring()
        if trainer.fast_dev_run or not self._batches:
            return
        self._warn_if_not_finite()
        if not best.live_nodes.any():
            rank_zero_warn(
                "BudgetedSearch: the most probable architecture does not connect the input to the "
                "output, so its output is the same for every image; use a smaller penalty or "
                "learning rate, or a larger budget."
            )
        elif self._best_price is not None and self._best_price > self.budget:
            rank_zero_warn(
                f"BudgetedSearch: the most probable architecture costs {self._best_price:,.10g} "
                f"{self._cost_name}, more than the budget of {self.budget:,.10g}; search longer or "
                "use a larger penalty."
            )

    @override
    def more_state(self) -> dict[str, Any]:
        price = self._best_price
        if self._moved and self._searched is not None:
            # A run that resumes after its last batch ends no epoch, and sees no images to time.
            price = self._price_of_best(self._searched)
        return {
            "batches": self._batches,
            "sampled": vars(self._sampled).copy(),
            "not_finite": 0 if self._not_finite is None else int(self._not_finite),
            "best_price": {self._cost_name: price},
        }

    @override
    def load_more_state(self, state: dict[str, Any]) -> None:
        assert self._searched is not None
        self._batches, self._sampled = state["batches"], Sampled(**state["sampled"])
        # Earlier versions did not save the other two.
        device = self._searched.gate.logits.device
        self._not_finite = torch.tensor(state.get("not_finite", 0), device=device)
        self._best_price = state.get("best_price", {}).get(self._cost_name)
        self._moved = False

    @override
    def let_go(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        if self._searched is not None:
            self._searched.gate.sampling = True
            self._searched.gate.seed(self.seed)
        self._searched = None
        super().let_go()

    @property
    def _cost_name(self) -> str:
        return name_of_cost(self.cost)

    def _find_price(self) -> Cost:
        try:
            return as_cost(self.cost, self.machines, self.order)
        except ValueError as error:
            raise self.mistake(str(error)) from error

    def _warn_if_never_binding(self, wiring: Wiring) -> None:
        """Warn if even the whole super-network is within the budget."""
        whole = float(self._prices(wiring.with_active(torch.ones_like(wiring.active)), self._price))
        if whole <= self.budget:
            rank_zero_warn(
                f"BudgetedSearch: the whole super-network costs {whole:,.10g} {self._cost_name}, "
                f"within the budget of {self.budget:,.10g}, so the budget changes nothing; give a "
                "smaller one."
            )

    def _count_if_not_finite(self, gradient: Tensor) -> None:
        """Count a step whose gradient is not finite, without waiting for the device."""
        bad = ~gradient.isfinite().all()
        self._not_finite = bad.long() if self._not_finite is None else self._not_finite + bad

    def _warn_if_not_finite(self) -> None:
        """Warn if the logits could not learn in some steps of the epoch that is over."""
        counted, self._not_finite = self._not_finite, None
        if counted is not None and (steps := int(counted)):
            rank_zero_warn(
                f"BudgetedSearch: in {steps:,} steps of an epoch the probabilities learned "
                "nothing, because losses of examples, or costs times the penalty, were not finite."
            )

    def _price_of_best(self, searched: Searched) -> float:
        """What the most probable architecture costs, without noise."""
        return float(self._prices(searched.network.wiring(), without_noise(self._price)))

    def _prices(self, wiring: Wiring, cost: Cost) -> Tensor:
        """What a cost gives for a wiring, checked; on the CPU."""
        return as_prices(cost(wiring), wiring, self._cost_name, self.mistake)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Runs after every step of the user's optimizer."""
        self._stepped = not step_was_skipped(optimizer)

    @torch.no_grad()
    def _observe(self, losses: Tensor) -> None:
        """Compute the costs of the sampled architectures, and add their policy gradient."""
        assert self.optimizer is not None
        assert self._searched is not None
        gate = self._searched.gate
        if gate.drawn is None or losses.shape != gate.drawn.shape[:1]:
            drawn = 0 if gate.drawn is None else len(gate.drawn)
            raise MisconfigurationException(
                f"BudgetedSearch: architectures were drawn for {drawn} examples, but the losses "
                f'that training_step returned have the shape {tuple(losses.shape)}; "losses" must '
                "hold one number for each example of the step's last forward pass in training mode."
            )
        edges = self._searched.active_edges(gate.drawn)
        prices = self._prices(self._searched.wiring.with_active(edges), self._price)
        self._sampled.add(prices, self.budget)
        objective = budgeted_objective(losses, prices, self.budget, self.absolute_penalty)
        self.optimizer.observe(objective)
