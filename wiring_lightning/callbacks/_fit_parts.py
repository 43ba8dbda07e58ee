"""The parts of a fit that a learner holds on to, which nothing may replace."""

from collections.abc import Iterable, Sequence

from torch import nn
from torch.optim import Optimizer

from wiring_lightning._checks import listed
from wiring_lightning.callbacks._copies import Place


class FitParts:
    """The parameters that a learner learns, and the optimizers whose steps it sees.

    Args:
        network: the LightningModule that is trained.
        places: where the tensors of the wiring are in it.
        optimizers: those of the trainer.
    """

    def __init__(
        self, network: nn.Module, places: Iterable[Place], optimizers: Sequence[Optimizer]
    ) -> None:
        own = {id(getattr(place.owner, place.key)) for place in places}
        self._network = network
        self._learned = {n: p for n, p in network.named_parameters() if id(p) in own}
        self.optimizers = list(optimizers)

    def replaced(self) -> str | None:
        """Which learned parameters are no longer in the network, in words; `None` if all are."""
        now = dict(self._network.named_parameters(remove_duplicate=False))
        gone = [name for name, own in self._learned.items() if now.get(name) is not own]
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
