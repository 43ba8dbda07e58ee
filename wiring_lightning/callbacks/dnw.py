"""Discovering Neural Wirings as a callback for any LightningModule."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from wiring_lightning.callbacks.wiring_callback import WiringCallback
from wiring_lightning.nn import Adjacency, find_adjacencies
from wiring_lightning.optim import EdgeSet, StraightThrough


class DNW(WiringCallback):
    """Train sparse weights and find out which of them to keep, in one run (DNW, Algorithm 1).

    The sparse layers hold exactly k weights that are not zero, at every step: those of largest
    magnitude. Absent weights still get their gradient and can come back, see
    `optim.StraightThrough`. Your optimizer updates all of them as usual. Biases and norms stay
    dense. The checkpoint of the network is the sparse network; the latent weights of the absent
    edges are part of this callback's state.

    A network of neural graphs (`nn.Adjacency`, in `backbones.NeuralGraph` and `MobileNetV1DNW`)
    says itself where its edges can be and how many: `DNW()` learns them. In any other network, say
    which layers are sparse and how much of them to keep.

    Args:
        density: share of the weights to keep, above 0 and up to 1, in every layer or group. Graphs
            keep their own number of edges if neither `density` nor `edges` is given.
        edges: number of weights to keep in every layer or group; instead of a density.
        layers: which layers are sparse: names of classes such as `Conv2d`, or patterns for the
            qualified names of modules such as `backbone.layer4.*`. If not given, the graphs of the
            network, or all of its `Conv2d` and `Linear` layers if it has no graph.
        first_dense: whether the first of these layers stays dense.
        groups: patterns as in `layers` by the name of a group; the layers of a group share one
            number of edges, so that it can move from one to another. Layers in no group have a
            number of their own.
        freeze_epoch: from the start of this epoch the edges stay, and only their weights learn.

    Raises:
        MisconfigurationException: if a number is out of range, no layer matches, or no optimizer
            holds a layer's weight.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DNW(density=0.1, first_dense=True)], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(
        self,
        density: float | None = None,
        edges: int | None = None,
        layers: Sequence[str] | None = None,
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
    ) -> None:
        super().__init__(freeze_epoch)
        if density is not None and edges is not None:
            raise MisconfigurationException("DNW: give a density or a number of edges, not both.")
        if density is not None and not 0 < density <= 1:
            raise MisconfigurationException(
                f"DNW: density must be above 0 and at most 1, got {density}."
            )
        if edges is not None and edges < 1:
            raise MisconfigurationException(f"DNW: edges must be at least 1, got {edges}.")
        self.density = density
        self.edges = edges
        self.layers = None if layers is None else tuple(layers)
        self.first_dense = first_dense
        self.groups = dict(groups or {})
        self.rules: list[StraightThrough] = []
        self._graphs: list[Adjacency] = []
        self._restored: list[dict[str, Any]] | None = None

    @override
    def set_lr(self, lr: float) -> None:
        raise MisconfigurationException(
            "DNW: edges learn with the learning rate of their weights; remove `gate_lr` from the "
            "phases."
        )

    @override
    def freeze(self) -> None:
        for rule in self.rules:
            rule.freeze()
        for graph in self._graphs:
            graph.freeze()

    def find_layers(self, module: nn.Module) -> dict[str, list[nn.Module]]:
        """The sparse layers of a module, by the name of their group or their own.

        Raises:
            MisconfigurationException: if none is found.
        """
        found: dict[str, list[nn.Module]] = {}
        patterns = self._patterns(module)
        sparse = [
            (name, layer)
            for name, layer in module.named_modules()
            if _has_matrix(layer) and any(_matches(name, layer, pattern) for pattern in patterns)
        ]
        for name, layer in sparse[self.first_dense :]:
            group = next(
                (
                    group
                    for group, patterns in self.groups.items()
                    if any(_matches(name, layer, pattern) for pattern in patterns)
                ),
                name,
            )
            found.setdefault(group, []).append(layer)
        if not found:
            raise MisconfigurationException(
                f"DNW found no layer to make sparse in {type(module).__name__}: none is of a class "
                f"or has a name that matches {', '.join(patterns)}"
                f"{', beside the first, which stays dense' if self.first_dense else ''}."
            )
        return found

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = self.find_layers(pl_module)
        self._graphs = [
            layer for group in layers.values() for layer in group if isinstance(layer, Adjacency)
        ]
        for graph in self._graphs:  # DDP copies parameters and buffers from rank 0, but not these
            if graph.absent is not None:
                graph.absent = trainer.strategy.broadcast(graph.absent)
        sets = [self._edge_set(name, group) for name, group in layers.items()]
        self.rules = [
            StraightThrough(optimizer, own)
            for optimizer in trainer.optimizers
            if (own := [edges for edges in sets if _holds(optimizer, edges)])
        ]
        if sum(len(rule.edge_sets) for rule in self.rules) < len(sets):
            self.let_go()
            raise MisconfigurationException(
                "DNW: the weights of a sparse layer or group are in no optimizer, or in two; leave "
                "the layer out of `layers`, or give all its weights to one optimizer."
            )
        if self._restored is not None:
            for rule, state in zip(self.rules, self._restored, strict=True):
                rule.load_state_dict(state)
            self._restored = None

    @override
    def state_dict(self) -> dict[str, Any]:
        if self.rules:
            return {"rules": [rule.state_dict() for rule in self.rules]}
        return {} if self._restored is None else {"rules": self._restored}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Called before the optimizers exist; `on_fit_start` takes it up.
        self._restored = state_dict.get("rules")

    def _patterns(self, module: nn.Module) -> list[str]:
        """What chooses the sparse layers."""
        if self.layers is not None:
            chosen = self.layers
        elif find_adjacencies(module):
            chosen = ("Adjacency",)
        else:
            chosen = ("Conv2d", "Linear")
        return [*chosen, *(pattern for group in self.groups.values() for pattern in group)]

    def _edge_set(self, name: str, layers: Sequence[nn.Module]) -> EdgeSet:
        weights = [cast(Tensor, layer.weight) for layer in layers]
        graphs = [layer if isinstance(layer, Adjacency) else None for layer in layers]
        usable = [None if graph is None else graph.rankable for graph in graphs]
        count = sum(
            weight.numel() if mask is None else int(mask.sum())
            for weight, mask in zip(weights, usable, strict=True)
        )
        k = self._number_of_edges(name, graphs, count)
        if k > count:
            raise MisconfigurationException(
                f"DNW: {k} edges were asked for in {name}, but it has only {count} weights."
            )
        absent = [None if graph is None else graph.take_absent() for graph in graphs]
        return EdgeSet(weights, k, usable, absent)

    def _number_of_edges(self, name: str, graphs: Sequence[Adjacency | None], count: int) -> int:
        if self.edges is not None:
            return self.edges
        if self.density is not None:
            return max(1, round(self.density * count))
        own = [graph.edges for graph in graphs if graph is not None]
        if len(own) < len(graphs):
            raise MisconfigurationException(
                f"DNW: {name} does not say how many edges it has; give either a density or a "
                "number of edges."
            )
        return sum(own)

    @override
    def let_go(self) -> None:
        for rule in self.rules:
            rule.detach()  # and stays, for a checkpoint that is saved after the fit
        self._restored = None


def _has_matrix(layer: nn.Module) -> bool:
    """Whether a layer's weight connects inputs to outputs; the scale of a norm does not."""
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() >= 2


def _matches(name: str, layer: nn.Module, pattern: str) -> bool:
    """Whether a pattern is the name of a layer's class, or fits its qualified name."""
    return pattern == type(layer).__name__ or fnmatchcase(name, pattern)


def _holds(optimizer: Optimizer, edges: EdgeSet) -> bool:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return all(id(weight) in held for weight in edges.weights)
