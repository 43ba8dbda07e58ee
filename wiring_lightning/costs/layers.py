"""What each layer of a network with sparse weights keeps and costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wiring_lightning.costs.by_weight import count_weights, with_parameters
from wiring_lightning.costs.shares import zeros_by_chance
from wiring_lightning.nn import find_adjacencies
from wiring_lightning.nn.weights import SparseWeight, find_dead, find_weights, own_names
from wiring_lightning.wiring import find_wired


@dataclass(frozen=True)
class LayerCost:
    """The weight of a layer: how much of it is there, and what it costs.

    Args:
        name: of the layer, or of the parameter if the layer has several.
        shape: of the weight; empty for a sum of layers.
        kept: number of weights that are there.
        weights: number of all weights. Of a graph, those that can be an edge.
        dead_rows: number of outputs that read nothing; `None` for a vector.
        dead_columns: number of inputs that nobody reads; `None` for a vector.
        multiply_adds: those of the dense weight; `None` if they are not known.
        kept_multiply_adds: those of the weights that are there.
        by_chance: how many absent weights do not make the layer a sparse one.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    weights: int
    dead_rows: int | None
    dead_columns: int | None
    multiply_adds: int | None = None
    kept_multiply_adds: int | None = None
    by_chance: int = 0

    @property
    def density(self) -> float:
        """The share of the weights that are there."""
        return self.kept / max(self.weights, 1)

    @property
    def sparse(self) -> bool:
        """Whether weights are absent, and more than a few that are zero by chance."""
        return self.weights - self.kept > self.by_chance


def layer_costs(network: nn.Module, example: Any = None) -> list[LayerCost]:
    """What each layer with a weight matrix keeps, in the order of the network.

    Args:
        network: any network; weights that are zero count as absent. A layer is `sparse` if more
            of them are zero than a dense layer has by chance (`costs.shares`).
        example: its input, a batch of one. Without it, multiply-adds are not counted.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(128, 10))
        >>> network[0].weight.data[2:] = 0
        >>> first, last = layer_costs(network, torch.zeros(1, 3, 6, 6))
        >>> first.kept, first.weights, first.density, first.dead_rows
        (54, 216, 0.25, 6)
        >>> first.multiply_adds, first.kept_multiply_adds, last.kept_multiply_adds
        (3456, 864, 1280)
    """
    network = with_parameters(network)
    counts = None if example is None else known_multiply_adds(network, example)
    return costs_of(find_matrices(network), {}, counts)


def known_multiply_adds(network: nn.Module, example: Any) -> dict[nn.Parameter, int | None] | None:
    """The multiply-adds of every weight of a network, where they are those of its weights.

    Args:
        network: any network.
        example: its input, a batch of one.

    Returns:
        The multiply-adds by weight; `None` for a weight whose layer computes in another way than by
        convolutions and matrix products. The result is `None` for a network with a wiring that has
        a graph of channels, or a layer whose multiply-adds are not found: only its wiring knows.

    Example:
        >>> from wiring_lightning.backbones import NeuralGraph, ResNet
        >>> small = ResNet(depth=20, wiring="previous", stem="cifar")
        >>> sum(known_multiply_adds(small, torch.zeros(1, 3, 32, 32)).values())
        40551040
        >>> known_multiply_adds(NeuralGraph(), torch.zeros(1, 3, 32, 32))
    """
    wired = find_wired(network) is not None
    if wired and find_adjacencies(network):
        return None
    found, unknown, _ = count_weights(network, example)
    counts = {**found, **dict.fromkeys(unknown)}
    all_known = all(counts.get(weight.parameter) for weight in find_matrices(network))
    return counts if all_known or not wired else None


def first_example(batch: Any) -> Any:
    """The first example of a batch: of a tensor, or of several whose first axes agree.

    Anything else is taken for one example.

    Example:
        >>> images, labels = torch.zeros(32, 3, 8, 8), torch.zeros(32)
        >>> first_example((images, labels))[0].shape
        torch.Size([1, 3, 8, 8])
        >>> first_example({"images": images, "size": torch.zeros(2)})["images"].shape
        torch.Size([32, 3, 8, 8])
    """
    if isinstance(batch, Mapping):
        return dict(zip(batch, first_example(tuple(batch.values())), strict=True))
    parts = batch if isinstance(batch, tuple) else (batch,)
    lengths = {one.shape[:1] if isinstance(one, Tensor) else None for one in parts}
    if len(lengths) != 1 or not lengths - {None, torch.Size([])}:
        return batch
    first = tuple(one[:1] for one in parts)
    return first if isinstance(batch, tuple) else first[0]


def find_matrices(
    network: nn.Module, copies: Sequence[nn.Module] = (), also: Iterable[nn.Parameter] = ()
) -> list[SparseWeight]:
    """The weights of a network's layers, without biases, norms and learned positions.

    Args:
        network: any network.
        copies: submodules that copy others, such as an average; theirs are left out.
        also: other parameters that are wanted, too.
    """
    wanted = {id(parameter) for parameter in also}
    return [
        weight
        for weight in find_weights(network, copies)
        if id(weight.parameter) in wanted
        or (not weight.is_vector and "weight" in weight.name.rpartition(".")[2])
    ]


@torch.no_grad()
def costs_of(
    weights: Sequence[SparseWeight],
    edges: Mapping[nn.Parameter, Tensor],
    counts: Mapping[nn.Parameter, int | None] | None,
) -> list[LayerCost]:
    """What some weights keep.

    Args:
        weights: the weights.
        edges: for some of their parameters, masks of what is there. Of the others that is what is
            not zero, and a few zeros can be chance.
        counts: multiply-adds by parameter, as of `known_multiply_adds`; `None` if not known.
    """
    rows = []
    for name, weight in zip(own_names(weights), weights, strict=True):
        parameter = weight.parameter
        mask = edges.get(parameter)
        there = weight.present if mask is None or weight.fills_zeros else mask
        usable = weight.usable
        there = there if usable is None else there & usable
        kept = int(there.sum())
        size = parameter.numel() if usable is None else int(usable.sum())
        dense = None if counts is None else counts.get(parameter, 0)
        dead_rows, dead_columns = (None, None) if weight.is_vector else find_dead(weight, there)
        rows.append(
            LayerCost(
                name=name,
                shape=tuple(parameter.shape),
                kept=kept,
                weights=size,
                dead_rows=None if dead_rows is None else int(dead_rows.sum()),
                dead_columns=None if dead_columns is None else int(dead_columns.sum()),
                multiply_adds=dense,
                kept_multiply_adds=(
                    None if dense is None else dense * kept // max(parameter.numel(), 1)
                ),
                by_chance=zeros_by_chance(size) if mask is None else 0,
            )
        )
    return rows


def sum_of(rows: Sequence[LayerCost], name: str = "all layers") -> LayerCost:
    """The sum of some layers; what is not known of one is not known of all.

    It is sparse if one of them is.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> sum_of(layer_costs(network)).weights
        18
    """

    def total(values: Iterable[int | None]) -> int | None:
        known = list(values)
        return None if None in known else sum(value or 0 for value in known)

    matrices = [row for row in rows if row.dead_rows is not None]
    return LayerCost(
        name=name,
        shape=(),
        kept=sum(row.kept for row in rows),
        weights=sum(row.weights for row in rows),
        dead_rows=total(row.dead_rows for row in matrices),
        dead_columns=total(row.dead_columns for row in matrices),
        multiply_adds=total(row.multiply_adds for row in rows),
        kept_multiply_adds=total(row.kept_multiply_adds for row in rows),
        by_chance=sum(row.weights - row.kept for row in rows if not row.sparse),
    )
