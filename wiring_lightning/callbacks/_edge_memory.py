"""Which edges sparse layers had when they were last looked at."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class EdgeMemory:
    """Counts the edges that are new since the last look; its state has one bit for each weight.

    Example:
        >>> memory = EdgeMemory()
        >>> memory.start({"layer": torch.tensor([True, True, False])})
        >>> memory.count_new({"layer": torch.tensor([True, False, True])})
        {'layer': 1}
        >>> memory.count_new({"layer": torch.tensor([True, False, True])})
        {'layer': 0}
    """

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}

    def start(self, edges: Mapping[str, Tensor]) -> None:
        """Look for the first time; what a resumed run remembers stays, if it fits."""
        now = {name: _packed(mask) for name, mask in edges.items()}
        for name, bits in now.items():
            last = self._last.get(name)
            if last is not None and last.shape == bits.shape:
                now[name] = last
        self._last = now

    def count_new(self, edges: Mapping[str, Tensor]) -> dict[str, int]:
        """The number of edges of each layer that were not there at the last look.

        Args:
            edges: masks by the names of the layers; those that were not there before count as new.
        """
        now = {name: _packed(mask) for name, mask in edges.items()}
        new = {
            name: bits & ~self._last[name] if name in self._last else bits
            for name, bits in now.items()
        }
        self._last = now
        return {name: int(np.unpackbits(bits.numpy()).sum()) for name, bits in new.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The last edges, packed to bytes."""
        return dict(self._last)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Remember what another run saw last."""
        self._last = {name: bits.cpu() for name, bits in state.items()}


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy()))
