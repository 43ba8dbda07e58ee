"""What all pictures share: colours, and how they read a wiring."""

import torch
from torch import Tensor

from wiring_lightning.wiring import Wiring

DPI = 130
# Green and vermilion of Okabe and Ito, who chose them for colour-blind readers.
LIVE, END = "#009E73", "#D55E00"
PRUNED = "#9AA0A6"
LEARNED, GIVEN, DEAD = "#12324F", "#8A939C", "#DADDE1"
INK = "#3C4043"
# For several networks in one picture: of Okabe and Ito too, dark and light in turn.
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def check_one(wiring: Wiring) -> None:
    """Refuse a batch of architectures.

    Raises:
        ValueError: if `active` has batch dimensions.
    """
    if wiring.active.dim() != 1:
        raise ValueError(
            "A picture shows one architecture, but this wiring holds a batch of shape "
            f"{tuple(wiring.active.shape[:-1])}; select one with `with_active`."
        )


def row_names(wiring: Wiring) -> list[str]:
    """Name of every group: what stands before the last dot in the name of its first node."""
    names = [""] * len(wiring.nodes.group_parameters)
    for name, row in zip(wiring.nodes.names, wiring.nodes.group.tolist(), strict=True):
        names[row] = names[row] or name.rpartition(".")[0] or name
    return names


def inner_nodes(wiring: Wiring) -> Tensor:
    """`[nodes]` mark the nodes that are neither the input nor the output."""
    inner = torch.ones(len(wiring.nodes), dtype=torch.bool)
    inner[[0, -1]] = False
    return inner


def row_noun(wiring: Wiring) -> str:
    """What a row of nodes is called: a module, unless every node is a row of its own."""
    single = len(wiring.nodes.group_parameters) == len(wiring.nodes)
    return wiring.noun[0] if single else "module"


def rank_in_group(group: Tensor) -> Tensor:
    """`[nodes]` position of every node among the nodes of its group.

    Example:
        >>> rank_in_group(torch.tensor([0, 1, 1, 0, 1])).tolist()
        [0, 0, 1, 1, 2]
    """
    order = group.argsort(stable=True)
    sizes = group.bincount()
    starts = sizes.cumsum(0) - sizes
    rank = torch.empty_like(group)
    rank[order] = torch.arange(len(group)) - starts[group[order]]
    return rank
