"""Wirings that are planted in data, so that it is known which edges a learner should find."""

import torch
from torch import Tensor

from wiring_lightning.functional.seeds import derived_seed


def planted_sources(targets: int, sources: int, fan_in: int, seed: int = 0) -> Tensor:
    """The sources that each target of made data depends on, drawn uniformly.

    Args:
        targets: number of targets.
        sources: number of sources.
        fan_in: number of distinct sources of each target.
        seed: of the drawing.

    Returns:
        `[targets, fan_in]` numbers of the sources, ascending in each row.

    Raises:
        ValueError: if a target is to have no source, or more than there are.

    Example:
        >>> planted_sources(targets=3, sources=8, fan_in=2)
        tensor([[3, 4],
                [1, 3],
                [0, 2]])
    """
    if not 1 <= fan_in <= sources:
        raise ValueError(
            f"fan_in (K) must be between 1 and the number of sources, which is {sources} here, "
            f"got {fan_in}."
        )
    # Its own generator: nothing else that is drawn changes the answer.
    generator = torch.Generator().manual_seed(derived_seed(seed, targets, sources, fan_in))
    order = torch.rand(targets, sources, generator=generator, device="cpu").argsort(1)
    return order[:, :fan_in].sort(1).values


def planted_edges(chosen: Tensor, sources: int) -> Tensor:
    """`[targets, sources]` a mask of the edges that `planted_sources` has drawn.

    Example:
        >>> planted_edges(torch.tensor([[0, 2], [1, 2]]), sources=3)
        tensor([[ True, False,  True],
                [False,  True,  True]])
    """
    mask = torch.zeros(len(chosen), sources, dtype=torch.bool, device="cpu")
    return mask.scatter_(1, chosen, True)
