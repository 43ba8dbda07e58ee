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
from wiring_lightning.optim import EdgeSet, StraightThrough


class DNW(WiringCallback):
    """Train sparse weights and find out which of them to keep, in one run (DNW, Algorithm 1).

    The chosen layers hold exactly k weights that are not zero, at every step: those of largest
    magnitude. Absent weights still get their gradient and can come back, see
    `optim.StraightThrough`. Your optimizer updates all of them as usual. Biases and norms stay
    dense. The checkpoint of the network is the sparse network; the latent weights of the absent
    edges are part of this callback's state.

    Args:
        density: share of the weights to keep, above 0 and up to 1, in every layer or group.
        edges: number of weights to keep in every layer or group; instead of a density.
        layers: which layers are sparse: names of classes such as `Conv2d`, or patterns for the
            qualified names of modules such as `backbone.layer4.*`.
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
        layers: Sequence[str] = ("Conv2d", "Linear"),
        first_dense: bool = False,
        groups: dict[str, list[str]] | None = None,
        freeze_epoch: int | None = None,
    ) -> None:
        super().__init__(freeze_epoch)
        if (density is None) == (edges is None):
            raise MisconfigurationException("DNW: give either a density or a number of edges.")
        if density is not None and not 0 < density <= 1:
            raise MisconfigurationException(
                f"DNW: density must be above 0 and at most 1, got {density}."
            )
        if edges is not None and edges < 1:
            raise MisconfigurationException(f"DNW: edges must be at least 1, got {edges}.")
        self.density = density
        self.edges = edges
        self.layers = tuple(layers)
        self.first_dense = first_dense
        self.groups = dict(groups or {})
        self.rules: list[StraightThrough] = []
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

    def find_layers(self, module: nn.Module) -> dict[str, list[nn.Module]]:
        """The sparse layers of a module, by the name of their group or their own.

        Raises:
            MisconfigurationException: if none is found.
        """
        found: dict[str, list[nn.Module]] = {}
        sparse = [
            (name, layer)
            for name, layer in module.named_modules()
            if _has_matrix(layer) and self._wants(name, layer)
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
                f"or has a name that matches {', '.join(self.layers)}"
                f"{', beside the first, which stays dense' if self.first_dense else ''}."
            )
        return found

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sets = [
            self._edge_set(name, layers) for name, layers in self.find_layers(pl_module).items()
        ]
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

    def _wants(self, name: str, layer: nn.Module) -> bool:
        patterns = [*self.layers, *(p for group in self.groups.values() for p in group)]
        return any(_matches(name, layer, pattern) for pattern in patterns)

    def _edge_set(self, name: str, layers: Sequence[nn.Module]) -> EdgeSet:
        weights = [cast(Tensor, layer.weight) for layer in layers]
        count = sum(weight.numel() for weight in weights)
        k = self.edges if self.density is None else max(1, round(self.density * count))
        assert k is not None  # the constructor wants one of the two
        if k > count:
            raise MisconfigurationException(
                f"DNW: {k} edges were asked for in {name}, but it has only {count} weights."
            )
        return EdgeSet(weights, k)

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
