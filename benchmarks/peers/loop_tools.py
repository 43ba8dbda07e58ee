"""rigl-torch, sparsimony and torch's pruning, called as their instructions say."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from benchmarks.peers.job import DENSITY, EVERY, SPARSE_LAYERS, UNTIL
from benchmarks.peers.loop import LoopTool


class RigLTorch(LoopTool):
    """`RigLScheduler` as the README of rigl-torch 0.5.2 has it, with its recommended values."""

    layers = SPARSE_LAYERS[1:]  # with its one distribution the first layer stays dense

    @override
    def attach(
        self, network: nn.Module, optimizer: Optimizer, state: Mapping[str, Any] | None
    ) -> None:
        from rigl_torch.RigL import RigLScheduler

        if state is not None:
            self.load(network, optimizer, state)
        self.pruner = RigLScheduler(
            network,
            optimizer,
            dense_allocation=DENSITY,
            sparsity_distribution="uniform",
            T_end=int(UNTIL * self.plan.steps),
            delta=EVERY,
            alpha=0.3,
            grad_accumulation_n=1,
            static_topo=False,
            ignore_linear_layers=False,
            state_dict=None if state is None else state["tool"],
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.pruner.state_dict()

    @override
    def before_step(self) -> bool:
        return self.pruner()

    @override
    def after_step(self, step: int) -> None:
        """Nothing: the scheduler wraps the optimizer's step."""

    @override
    def finish(self) -> None:
        """Nothing: weights and their names are those of the plain network."""


class Sparsimony(LoopTool):
    """`RigL` of sparsimony 0.1.0, in the order of calls of the project's ImageNet example.

    Except that DDP wraps the network afterwards: a layer that is parametrized later is lost to it.
    """

    wrapped_first = False

    @override
    def attach(
        self, network: nn.Module, optimizer: Optimizer, state: Mapping[str, Any] | None
    ) -> None:
        from sparsimony.distributions.base import UniformDistribution
        from sparsimony.dst.rigl import RigL
        from sparsimony.schedulers.base import CosineDecayScheduler

        self.sparsifier = RigL(
            CosineDecayScheduler(0.3, t_end=int(UNTIL * self.plan.steps), delta_t=EVERY),
            UniformDistribution(),
            optimizer,
            sparsity=1 - DENSITY,
        )
        layers = [
            {"tensor_fqn": f"{name}.weight"}
            for name, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        self.sparsifier.prepare(network, layers)
        if state is not None:
            self.load(network, optimizer, state)
            self.sparsifier.load_state_dict(state["tool"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.sparsifier.state_dict()

    @override
    def before_step(self) -> bool:
        return True

    @override
    def after_step(self, step: int) -> None:
        self.sparsifier.step()

    @override
    def finish(self) -> None:
        self.sparsifier.squash_mask()


class TorchPruning(LoopTool):
    """`WeightNormSparsifier` and `CubicSL`, one step of both every `EVERY` steps.

    Its layers are those that it takes by itself, the linear ones.
    """

    layers = ("third", "last")
    wrapped_first = False
    package = "torch.ao.pruning"
    sparsifier_at = scheduler_at = ""

    @override
    def attach(
        self, network: nn.Module, optimizer: Optimizer, state: Mapping[str, Any] | None
    ) -> None:
        sparsifiers = importlib.import_module(self.package + self.sparsifier_at)
        schedulers = importlib.import_module(self.package + self.scheduler_at)
        self.sparsifier = sparsifiers.WeightNormSparsifier(
            sparsity_level=1 - DENSITY, sparse_block_shape=(1, 1)
        )
        self.sparsifier.prepare(network, config=None)
        changes = int(UNTIL * self.plan.steps) // EVERY
        self.scheduler = schedulers.CubicSL(self.sparsifier, delta_t=1, total_t=changes - 1)
        if state is not None:
            try:
                network.load_state_dict(state["network"])
            except RuntimeError:
                self.said.append("its network refuses its own state_dict unless strict=False")
                network.load_state_dict(state["network"], strict=False)
            optimizer.load_state_dict(state["optimizer"])
            self.sparsifier.load_state_dict(state["tool"]["sparsifier"])
            self.scheduler.load_state_dict(state["tool"]["scheduler"])

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "sparsifier": self.sparsifier.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    @override
    def before_step(self) -> bool:
        return True

    @override
    def after_step(self, step: int) -> None:
        if (step + 1) % EVERY == 0:
            self.sparsifier.step()
            self.scheduler.step()

    @override
    def finish(self) -> None:
        self.sparsifier.squash_mask()


class TorchAO(TorchPruning):
    """The copy of the same classes in torchao."""

    package = "torchao.prototype.sparsity"
    sparsifier_at = ".sparsifier.weight_norm_sparsifier"
    scheduler_at = ".scheduler.cubic_scheduler"
