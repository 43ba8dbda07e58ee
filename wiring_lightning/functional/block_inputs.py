"""Which terms the input of each block of a residual network has, and with which factors."""

from collections.abc import Sequence
from dataclasses import dataclass

from wiring_lightning.functional.spaces import Space


@dataclass(frozen=True)
class BlockInputs:
    """What the input of each block of a residual network is summed from.

    `x_j` is the ReLU of a sum over earlier blocks k of their residuals `F_k` and of their
    identities `x_k`, both in the shape of the input (MaskConnect, Equation 1 and Section 3.4).

    Args:
        spaces: the shape of each stage.
        origins: the shape of each block's input; that of the first one may be no stage's.
        stages: for each block the stage of its output.
        fan_in: K, the number of blocks that an input reads, if there are so many.
        mean: whether the identities of the blocks that are read are averaged.
        binary: whether every gate is 0 or 1.
    """

    spaces: Sequence[Space]
    origins: Sequence[Space]
    stages: Sequence[int]
    fan_in: int
    mean: bool
    binary: bool

    def gated(self, block: int) -> bool:
        """Whether the input is `sum_k g_jk (F_k + scale * x_k)`, plus `share` of all identities.

        The others read all earlier blocks, with a weight of 1.
        """
        return block > self.fan_in or not self.binary

    @property
    def scale(self) -> float:
        """The factor of the identity in what gates weigh."""
        return 1 / self.fan_in if self.mean else 1.0

    def share(self, block: int) -> float:
        """The factor of the sum of all earlier identities in the input of a block."""
        if not self.gated(block):
            return 1 / block if self.mean else 1.0
        # The mean over fewer than K identities, each of which is weighted with 1 / K already.
        return 1 / block - 1 / self.fan_in if self.mean and block < self.fan_in else 0.0

    def read_all(self, block: int) -> tuple[bool, bool]:
        """Whether a later input reads the sum of all residuals, of all identities so far."""
        later = range(block + 1, min(len(self.stages), self.fan_in + 1))
        return any(not self.gated(j) for j in later), any(self.share(j) for j in later)

    def space(self, block: int) -> Space:
        """The shape of a block's output."""
        return self.spaces[self.stages[block]]

    def input_stage(self, block: int) -> int:
        """The stage whose shape the input of a block has, but for the first block."""
        return self.spaces.index(self.origins[block])
