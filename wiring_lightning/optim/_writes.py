"""Values that others write into sparse parameters between two steps."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def with_writes(
    found: Sequence[Tensor],
    written: Sequence[Tensor],
    latent: Sequence[Tensor],
    limits: Sequence[Tensor],
) -> list[Tensor]:
    """The latent weights of an edge set into whose parameters others may have written.

    What others wrote is latent from now on. Absent weights that they did not write are limited, so
    that these do not take the place of what was written. If nothing was, all stay as they are.

    Args:
        found: for each parameter of the set what it holds.
        written: for each parameter what its rule has written into it.
        latent: for each parameter the latent weights so far.
        limits: for each parameter what the magnitudes of absent weights must stay below.

    Example:
        >>> latent = [torch.tensor([0.5, -0.4])]
        >>> written, found = [torch.tensor([0.5, 0.0])], [torch.tensor([0.25, 0.0])]
        >>> (present,) = with_writes(found, written, latent, limits=[torch.tensor(0.25)])
        >>> [round(value, 4) for value in present.tolist()]
        [0.25, -0.25]
    """
    pairs = zip(found, written, strict=True)
    changed = torch.stack([(value != own).any() for value, own in pairs]).any()
    present = list[Tensor]()
    for value, own, old, limit in zip(found, written, latent, limits, strict=True):
        below = limit * (1 - torch.finfo(limit.dtype).eps)
        absent = torch.minimum(torch.maximum(old.nan_to_num(0.0), -below), below)
        unwritten = torch.where(value == 0, absent, old)
        new = torch.where(value == own, unwritten, value)
        present.append(torch.where(changed, new, old))
    return present
