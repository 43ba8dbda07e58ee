"""Change masks by rule: some weights go, others come."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wiring_lightning.functional.dnw import Usable, mask_largest


@torch.no_grad()
def change_masks(
    masks: Sequence[Tensor],
    drop: Sequence[Tensor],
    grow: Sequence[Tensor],
    kept: int,
    grown: int,
    usable: Usable = (),
    least: int = 0,
) -> list[Tensor]:
    """Keep the present entries with the highest scores, and add the best of all others.

    An entry that was just dropped competes with those that were absent, as in RigL, Algorithm 1.

    Args:
        masks: the present entries of every tensor.
        drop: scores, not negative, by which present entries stay.
        grow: scores, not negative, by which other entries come.
        kept: how many present entries stay, in all tensors together.
        grown: how many other entries come.
        usable: for each tensor a mask of the entries that can come, or `None` for all.
        least: how many entries every tensor keeps at least, if it has as many.

    Raises:
        ValueError: if there are fewer present or other entries than that.

    Example:
        >>> present = [torch.tensor([True, True, False, False])]
        >>> weights, gradients = torch.tensor([0.5, 0.1, 0.0, 0.0]), torch.arange(4.0)
        >>> change_masks(present, [weights], [gradients], kept=1, grown=1)
        [tensor([ True, False, False,  True])]
    """
    stay = mask_largest(drop, kept, masks, least)
    if grown == 0:
        return stay
    free = [~own for own in stay]
    for own, mask in zip(free, usable, strict=False):
        if mask is not None:
            own &= mask
    come = mask_largest(grow, grown, free)
    return [one | other for one, other in zip(stay, come, strict=True)]
