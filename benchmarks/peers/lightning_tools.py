"""Callbacks of Lightning: its own `ModelPruning`, and those of this package."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, ModelPruning
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader
from typing_extensions import override

from benchmarks.peers.job import (
    DENSITY,
    EVERY,
    OPTIMIZER,
    SPARSE_LAYERS,
    UNTIL,
    Outcome,
    Plan,
    accuracy,
    batches,
    look_at_compiled,
    loss_of,
    new_network,
    read,
    weights_of,
)
from benchmarks.peers.loop import changed
from wiring_lightning.callbacks import GradualPruning, PruneAtStart, RigL


class Job(LightningModule):
    """The job as a LightningModule that knows no tool."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.network = new_network(plan)
        self.before: dict[str, Tensor] = {}
        self.skipped: int | None = None

    @override
    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        step = self.current_epoch * len(self.batches) + batch_index
        return loss_of(self.network, self.batches[batch_index], step, self.plan)

    @override
    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        if self.plan.skip == self.current_epoch * len(self.batches) + batch_index:
            self.before = weights_of(self.network)

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        if self.before:
            self.skipped = changed(self.before, weights_of(self.network))
            self.before = {}

    @override
    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), **OPTIMIZER)

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of batches; every process cuts its share from the batch of this number."""
        self.batches = batches(self.plan)
        return DataLoader(range(len(self.batches)), batch_size=None)


class LightningTool:
    """A callback in a trainer; one object is one run.

    Args:
        plan: of the run.
    """

    layers: tuple[str, ...] = SPARSE_LAYERS

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def callback(self, job: Job) -> Callback:
        """The tool."""
        raise NotImplementedError

    def run(self) -> Outcome:
        """Do the job."""
        plan = self.plan
        job = Job(plan)
        callbacks: list[Callback] = [self.callback(job)]
        if plan.average:
            callbacks.append(EMAWeightAveraging(decay=0.9))
        if plan.save is not None:
            callbacks.append(
                ModelCheckpoint(
                    plan.save.parent,
                    "{epoch}",
                    every_n_epochs=1,
                    save_top_k=-1,
                    save_on_train_epoch_end=True,
                )
            )
        if plan.backend is not None:
            job.network.compile(backend=plan.backend)
        _trainer(plan, callbacks).fit(
            job, ckpt_path=None if plan.resume is None else str(plan.resume)
        )
        weights = weights_of(job.network)
        outcome = Outcome(weights, _own(job.state_dict()))
        outcome.skipped = job.skipped
        if plan.average:  # the callback writes it over the weights
            outcome.average = weights
        if plan.backend is not None:
            look_at_compiled(job.network, outcome, plan)
        outcome.accuracy = accuracy(job.network, plan)  # afterwards: without gradients, it compiles
        if plan.save is not None:
            made = plan.save.parent / f"epoch={plan.save_epoch - 1}.ckpt"
            made.rename(plan.save)
            outcome.state = _own(read(plan.save)["state_dict"])
        return outcome


def _trainer(plan: Plan, callbacks: list[Callback]) -> Trainer:
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    return Trainer(
        accelerator="cpu",
        devices=plan.world,
        strategy="ddp" if plan.world > 1 else "auto",
        use_distributed_sampler=False,
        plugins=[] if plan.skip is None else [scaled],
        max_epochs=plan.epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=plan.save is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of the network inside of the module."""
    return {
        key.removeprefix("network."): value.detach().clone()
        for key, value in state.items()
        if key.startswith("network.")
    }


class Pruning(LightningTool):
    """Lightning's `ModelPruning`, by magnitude over all layers, in three epochs.

    Each time it prunes a share of the weights that are still there, so the shares are those that
    lead to the densities of a cubic schedule.
    """

    permanent = True

    @override
    def callback(self, job: Job) -> Callback:
        epochs = int(UNTIL * self.plan.epochs)

        def density(epoch: int) -> float:
            return DENSITY + (1 - DENSITY) * (1 - min(epoch, epochs) / epochs) ** 3

        return ModelPruning(
            "l1_unstructured",
            parameters_to_prune=[(job.network.get_submodule(x), "weight") for x in SPARSE_LAYERS],
            use_global_unstructured=True,
            amount=lambda epoch: 1 - density(epoch + 1) / density(epoch),
            use_lottery_ticket_hypothesis=False,
            make_pruning_permanent=self.permanent,
        )


class PruningKept(Pruning):
    """The same with masks in the checkpoint."""

    permanent = False


class OurRigL(LightningTool):
    """`callbacks.RigL`, uniform with a dense first layer, as rigl-torch."""

    layers = SPARSE_LAYERS[1:]

    @override
    def callback(self, job: Job) -> Callback:
        return RigL(density=DENSITY, delta_t=EVERY, until=UNTIL, first_dense=True)


class OurGradualPruning(LightningTool):
    """`callbacks.GradualPruning`, over all layers."""

    @override
    def callback(self, job: Job) -> Callback:
        return GradualPruning(density=DENSITY, every=EVERY, until=UNTIL, distribution="global")


class OurPruneAtStart(LightningTool):
    """`callbacks.PruneAtStart`."""

    @override
    def callback(self, job: Job) -> Callback:
        return PruneAtStart(density=DENSITY)
