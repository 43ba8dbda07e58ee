"""What `BudgetedSearch` searches: the super-network of a module, and its gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from wiring_lightning.nn import Adjacency, BernoulliGate, Gate, find_bernoulli_gates
from wiring_lightning.wiring import Priced, SuperNetwork, Wiring


@dataclass(frozen=True, eq=False)
class Searched:
    """The super-network of a module, its gate, and its wiring."""

    network: Priced
    gate: BernoulliGate
    at_start: Wiring

    @property
    def wiring(self) -> Wiring:
        """The wiring of the network, in which sampled edges are set."""
        return self.network.wiring() if self._chooses_more else self.at_start

    @cached_property
    def _chooses_more(self) -> bool:
        """Whether another learner may change edges beside those of the gate."""
        assert isinstance(self.network, nn.Module)
        return any(isinstance(part, Gate | Adjacency) for part in self.network.modules())

    def active_edges(self, drawn: Tensor) -> Tensor:
        """`[batch, edges]` the active edges of the wiring for what the gate has drawn."""
        if isinstance(self.network, SuperNetwork):
            return self.network.active_edges(drawn)
        return self.wiring.active_edges(drawn)


def some_gates(module: LightningModule) -> dict[str, BernoulliGate]:
    """All gates of a module; an error if there is none."""
    gates = find_bernoulli_gates(module)
    if not gates:
        raise _wrong_number("no gate to learn", module)
    return gates


def _wrong_number(found: str, module: LightningModule) -> MisconfigurationException:
    return MisconfigurationException(
        f"BudgetedSearch found {found} in {type(module).__name__}: it searches one super-network, "
        "such as `backbones.ResNetFabric`, or your own with one `nn.BernoulliGate`."
    )


def find_searched(module: LightningModule, copies: Sequence[nn.Module]) -> Searched:
    """The one super-network of a module, beside its copies; an error if there is not one."""
    copied = {id(part) for copy in copies for part in copy.modules()}
    found = [gate for gate in some_gates(module).values() if id(gate) not in copied]
    # A gate that takes no gradient and is not frozen is in another network, such as a teacher.
    gates = [gate for gate in found if gate.logits.requires_grad or gate.frozen] or found
    if len(gates) != 1:
        raise _wrong_number(f"{len(gates)} gates", module)
    (gate,) = gates
    for child in module.modules():
        if isinstance(child, Priced) and any(part is gate for part in child.modules()):
            wiring = child.wiring()
            if isinstance(child, SuperNetwork) or _draws_all(wiring, gate):
                return Searched(child, gate, wiring)
    raise MisconfigurationException(
        f"BudgetedSearch cannot price the architectures of {type(module).__name__}: the network "
        "with the gate needs a method `wiring` that adds every edge of the gate with "
        "`WiringBuilder.draw`."
    )


def _draws_all(wiring: Wiring, gate: BernoulliGate) -> bool:
    """Whether a wiring has all edges of a gate that it could leave out."""
    if wiring.drawn is None:
        return False
    learnable = gate.learnable_edges.cpu().nonzero().flatten().tolist()
    return set(learnable) <= set(wiring.drawn.tolist())


def refuse_synchronised(searched: Searched, trainer: Trainer) -> None:
    """Raise an error if ranks would wait for each other in modules that some do not draw."""
    assert isinstance(searched.network, nn.Module)
    synchronised = any(isinstance(m, nn.SyncBatchNorm) for m in searched.network.modules())
    if synchronised and trainer.world_size > 1:
        raise MisconfigurationException(
            "BudgetedSearch: SyncBatchNorm would wait for ever for a rank that draws no "
            "architecture with its module: leave out sync_batchnorm."
        )
