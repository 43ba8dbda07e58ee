"""The training loop of tools that live in a plain PyTorch program."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.peers.job import (
    EPOCH,
    OPTIMIZER,
    SPARSE_LAYERS,
    Outcome,
    Plan,
    accuracy,
    batches,
    look_at_compiled,
    loss_of,
    new_network,
    read,
    weights_of,
    write,
)


class LoopTool(ABC):
    """A tool that is called in the user's own loop; one object is one run.

    Args:
        plan: of the run.
    """

    layers: tuple[str, ...] = SPARSE_LAYERS
    wrapped_first = True  # whether DDP wraps the network before the tool sees it

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.said: list[str] = []

    @abstractmethod
    def attach(
        self, network: nn.Module, optimizer: Optimizer, state: Mapping[str, Any] | None
    ) -> None:
        """Make the network sparse, or load it and go on with what `state_dict` gave."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What the tool asks its user to save beside network and optimizer."""

    @abstractmethod
    def before_step(self) -> bool:
        """Called with all gradients; whether the optimizer shall take its step."""

    @abstractmethod
    def after_step(self, step: int) -> None:
        """Called after the optimizer's step."""

    @abstractmethod
    def finish(self) -> None:
        """Turn the network into a plain one, if it is none."""

    def load(self, network: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
        """Network and optimizer as a program loads them."""
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])

    def run(self) -> Outcome:
        """Do the job."""
        plan = self.plan
        network = new_network(plan)
        optimizer = SGD(network.parameters(), **OPTIMIZER)
        saved = None if plan.resume is None else read(plan.resume)
        whole: nn.Module = network
        if plan.world > 1 and self.wrapped_first:
            whole = DistributedDataParallel(network)
        self.attach(whole, optimizer, saved)
        if plan.world > 1 and not self.wrapped_first:
            whole = DistributedDataParallel(network)
        average = _average(network) if plan.average else None
        if plan.backend is not None:
            whole.compile(backend=plan.backend)
        outcome = Outcome({}, {})
        scaler = torch.amp.GradScaler("cpu", enabled=plan.skip is not None)
        data = batches(plan)
        for step in range(0 if saved is None else plan.resume_epoch * EPOCH, plan.steps):
            before = weights_of(network) if step == plan.skip else {}
            optimizer.zero_grad()
            scaler.scale(loss_of(whole, data[step % len(data)], step, plan)).backward()
            if self.before_step():
                scaler.step(optimizer)
                scaler.update()
            self.after_step(step)
            if average is not None:
                average.update_parameters(network)
            if before:
                outcome.skipped = changed(before, weights_of(network))
            if step + 1 == plan.save_epoch * EPOCH and plan.save is not None:
                outcome.state = _copy(network)
                write(plan.save, {"network": network.state_dict(),
                                  "optimizer": optimizer.state_dict(),
                                  "tool": self.state_dict()})  # fmt: skip
        outcome.weights = weights_of(network)
        if plan.backend is not None:
            look_at_compiled(network, outcome, plan)
        if average is not None:
            outcome.average = weights_of(average.module)
        self.finish()
        outcome.finished = _copy(network)
        outcome.accuracy = accuracy(network, plan)
        outcome.notes = self.said
        return outcome


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    """How many weights differ; not-a-number differs from everything."""
    return sum(int((before[name] != after[name]).sum()) for name in before)


def _average(network: nn.Module) -> AveragedModel:
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
