"""What a random wiring would look like: live nodes by depth, by simulation."""

from typing import NamedTuple

import torch
from torch import Tensor

from wiring_lightning.plots.rows import inner_nodes
from wiring_lightning.wiring import Wiring

_DRAWS = 2000  # wirings
_NUMBERS = 20_000_000  # edges of all wirings together; larger networks get fewer draws


class RandomLive(NamedTuple):
    """Live nodes of every module in random wirings.

    Attributes:
        mean: `[modules]` their mean.
        std: `[modules]` their standard deviation.
        draws: number of wirings.
    """

    mean: Tensor
    std: Tensor
    draws: int


def live_of_random_wirings(wiring: Wiring, seed: int = 0) -> RandomLive | None:
    """Count live nodes in wirings whose targets choose their sources at random.

    Every target that learns draws as many sources as it has now, uniformly and without replacement
    among its candidates. All other edges stay. This is a simulation of 2,000 wirings, fewer if the
    network has more than 10,000 edges, with a fixed seed: the same wiring gives the same numbers.

    Args:
        wiring: one architecture.
        seed: of the draws.

    Returns:
        The live nodes of every module, without input and output. `None` if targets of one module
        have different numbers of sources, as in networks of DNW and BSN, or if none has a choice.

    Example:
        >>> from wiring_lightning.backbones import ResNeXt
        >>> live = live_of_random_wirings(ResNeXt(depth=11, cardinality=4, fan_in=1).wiring())
        >>> [round(float(count), 1) for count in live.mean]  # in the middle 4 * (1 - (3 / 4)^4)
        [2.2, 2.7, 4.0]
        >>> live_of_random_wirings(ResNeXt(depth=11, wiring="full").wiring()) is None
        True
    """
    learned = wiring.learnable.nonzero().flatten()
    targets = wiring.target[learned]
    size = len(wiring.nodes)
    candidates = targets.bincount(minlength=size)
    chosen = targets.bincount(wiring.active[learned].double(), minlength=size).long()
    if not _same_in_modules(wiring, candidates, chosen) or bool((chosen == candidates).all()):
        return None
    draws = max(100, min(_DRAWS, _NUMBERS // len(wiring.active)))
    generator = torch.Generator().manual_seed(seed)
    active = wiring.active.repeat(draws, 1)
    order = targets.argsort(stable=True)
    for edges in learned[order].split(candidates[candidates > 0].tolist()):
        count = int(chosen[wiring.target[edges[0]]])
        keys = torch.rand(draws, len(edges), generator=generator, device="cpu")
        drawn = torch.zeros(draws, len(edges), dtype=torch.bool, device="cpu")
        active[:, edges] = drawn.scatter_(1, keys.topk(count).indices, True)
    inner = inner_nodes(wiring)
    live = wiring.with_active(active).live_nodes[:, inner].double()
    groups = wiring.nodes.group[inner]
    rows = torch.zeros(draws, len(wiring.nodes.group_parameters), dtype=torch.double, device="cpu")
    counts = rows.index_add_(1, groups, live)[:, groups.unique()]
    return RandomLive(counts.mean(0), counts.std(0), draws)


def _same_in_modules(wiring: Wiring, candidates: Tensor, chosen: Tensor) -> bool:
    """Whether the targets of a module have K sources each, or all candidates if these are fewer.

    Only targets that learn count.
    """
    learns = candidates > 0
    most = torch.zeros(len(wiring.nodes.group_parameters), dtype=torch.long, device="cpu")
    most.scatter_reduce_(0, wiring.nodes.group[learns], chosen[learns], "amax")
    wanted = most[wiring.nodes.group].minimum(candidates)
    return bool(((chosen == wanted) & (chosen > 0))[learns].all())
