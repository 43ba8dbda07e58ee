"""What is refused when a fit starts, whichever callback sees it."""

from collections.abc import Sequence
from typing import Protocol

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim import Optimizer

from wiring_lightning._checks import counted
from wiring_lightning.callbacks._copies import Group
from wiring_lightning.nn import BernoulliGate, Gate, Learnable, find_learnable
from wiring_lightning.optim import parameters_of
from wiring_lightning.optim._gate_optimizer import GateOptimizer


class Learner(Protocol):
    """A callback that learns gates, or else the weights of graphs."""

    @property
    def learns_gates(self) -> bool: ...

    def places(self) -> list[Group]: ...

    def mistake(self, text: str) -> MisconfigurationException: ...


def refuse_a_second(callback: Callback, trainer: Trainer) -> None:
    """Raise an error if a trainer has two callbacks of this class, of which one suffices."""
    kind = type(callback)
    if sum(isinstance(other, kind) for other in trainer.callbacks) > 1:
        raise MisconfigurationException(
            f"The trainer has more than one {kind.__name__}: leave one, the others would undo or "
            "repeat what it does."
        )


def refuse_two_learners(learner: Learner, learners: Sequence[Learner]) -> None:
    """Raise an error if another one of the learners learns a tensor of this one."""
    own = {place.tensor.data_ptr() for group in learner.places() for place in group}
    for other in learners:
        theirs = [] if other is learner else [place for group in other.places() for place in group]
        shared = [place for place in theirs if place.tensor.data_ptr() in own]
        if shared:
            raise learner.mistake(
                f"{type(other).__name__} learns the wiring of the same "
                f"{type(shared[0].owner).__name__}; let each layer have one learner."
            )


def find_untaught(module: nn.Module, learners: Sequence[Learner]) -> list[Learnable]:
    """The layers with a wiring that should learn, and that none of the learners learns."""
    return [
        layer
        for layer in find_learnable(module).values()
        # None of them takes a gradient in a copy of the network, such as an average.
        if any(parameter.requires_grad for parameter in layer.parameters())
        and not any(
            each.learns_gates or not isinstance(layer, Gate | BernoulliGate) for each in learners
        )
    ]


def refuse_untaught(layers: Sequence[Learnable]) -> None:
    """Raise an error if there is a layer whose wiring nobody learns."""
    if layers:
        raise MisconfigurationException(
            f"The network has a learned wiring ({counted(len(layers), 'layer')}), but no callback "
            f"learns it, so it would keep its first random draw: add {layers[0].taught_by} to the "
            'callbacks of the trainer, or build the backbone with wiring="random".'
        )


def refuse_untaught_in(
    optimizers: Sequence[Optimizer], module: nn.Module, learners: Sequence[Learner]
) -> None:
    """Raise an error if optimizers of weights would move the scores of gates that nobody learns.

    Scores in no optimizer, and weights of graphs, may be for a rule of the user's own.
    """
    moved = {
        id(parameter)
        for optimizer in optimizers
        if not isinstance(optimizer, GateOptimizer)
        for parameter in parameters_of(optimizer)
    }
    refuse_untaught(
        [
            layer
            for layer in find_untaught(module, learners)
            if isinstance(layer, Gate | BernoulliGate)
            and id(layer.scores if isinstance(layer, Gate) else layer.logits) in moved
        ]
    )


def refuse_without_hooks(optimizers: Sequence[Optimizer], learner: str) -> None:
    """Raise an error if a learner could not see the steps of an optimizer."""
    for optimizer in optimizers:
        if not hasattr(optimizer, "register_step_pre_hook"):  # Lightning takes other classes, too
            raise MisconfigurationException(
                f"{learner} acts in the steps of the optimizer, but {type(optimizer).__name__} is "
                "no torch.optim.Optimizer: let its class be derived from that one."
            )
