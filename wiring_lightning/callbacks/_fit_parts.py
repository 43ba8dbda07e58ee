"""The parts of a fit that a learner holds on to, which nothing may replace."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wiring_lightning._checks import listed
from wiring_lightning.callbacks._copies import Place


class FitParts:
    """The parameters that a learner learns, and the optimizers whose steps it sees.

    Args:
        network: the LightningModule that is trained.
        places: where the tensors of the wiring are in it.
        optimizers: those of the trainer.

    Attributes:
        moved: whether the network may have left its device, as at the end of a fit, where some get
            new parameters of the same values in the same modules.
    """

    def __init__(
        self, network: nn.Module, places: Iterable[Place], optimizers: Sequence[Optimizer]
    ) -> None:
        own = {id(getattr(place.owner, place.key)) for place in places}
        self._network = network
        named = network.named_parameters(remove_duplicate=False)  # tied ones, too
        self._learned = {name: parameter for name, parameter in named if id(parameter) in own}
        self.optimizers = list(optimizers)
        self.moved = False

    def replaced(self) -> str | None:
        """Which learned parameters are no longer in the network, in words; `None` if all are."""
        now = dict(self._network.named_parameters(remove_duplicate=False))
        gone = [
            name
            for name, own in self._learned.items()
            if now.get(name) is not own
            # Layers that are packed or quantised at the end of a fit have no such parameter.
            and not (self.moved and (name not in now or _is_copy(now[name], own)))
        ]
        if not gone:
            return None
        return (
            f"{listed(gone)} of the network were replaced after the fit had started, so their "
            "wiring is not learned; replace parts of a network before the fit, such as in its "
            "__init__ or configure_model."
        )

    def unseen(self, optimizers: Sequence[Optimizer]) -> str | None:
        """What is wrong if these, the present optimizers, are others; `None` if they are not."""
        if list(map(id, self.optimizers)) == list(map(id, optimizers)):
            return None
        return (
            "the optimizers of the trainer were replaced after the fit had started, and the steps "
            "of others are not seen; change the groups of an optimizer in place, or begin a new "
            "fit."
        )


def _is_copy(now: Tensor, own: Tensor) -> bool:
    """Whether a parameter has the values of another one, as after a move to another device."""
    if now.shape != own.shape:
        return False
    # A loss that diverged leaves weights that are no numbers.
    return torch.allclose(own.to(now.device), now, rtol=0, atol=0, equal_nan=True)
