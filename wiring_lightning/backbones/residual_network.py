"""A chain of residual blocks, each fed by the sum of some earlier ones."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.backbones.wiring_columns import Choice, WiringColumns, count_parameters
from wiring_lightning.functional import BlockSums, PlainBlockSums, Space, lift
from wiring_lightning.nn import Gate, ResidualBlock, Selection
from wiring_lightning.nn.described import Described
from wiring_lightning.wiring import Wiring

Connection = Gate | Selection


class ResidualNetwork(Described):
    """Stem, residual blocks, average pooling and a linear classifier.

    The first block reads the stem and the classifier the last block. Without a connection every
    other block reads the one before. With one, block j reads K of the j - 1 earlier blocks, and
    `K_j = min(K, j - 1)` says how many that are: it receives `relu(sum_k m_jk (F_k + s_j x_k))`
    with `s_j = 1 / K_j` for `identity="mean"` and 1 for `"sum"`.

    Args:
        stem: the first layers.
        blocks: the residual blocks, in order.
        connection: `[blocks - 1, blocks - 1]`: row j - 2 is for block j, column k - 1 for block k.
        fan_in: K.
        mean: whether the identities of the K sources are averaged.
        spaces: the shape of each stage.
        classifier: the last layer.
        image_size: height and width of the images, for counting multiply-adds.
    """

    def __init__(
        self,
        stem: nn.Sequential,
        blocks: dict[str, ResidualBlock],
        connection: Connection | None,
        fan_in: int,
        mean: bool,
        spaces: Sequence[Space],
        classifier: nn.Linear,
        image_size: int,
    ) -> None:
        super().__init__()
        self.fan_in = fan_in
        self.mean = mean
        self.spaces = tuple(spaces)
        self.image_size = image_size
        self.stem = stem
        self.blocks = nn.ModuleDict(blocks)
        self.connection = connection
        self.classifier = classifier

    @override
    def forward(self, images: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> logits `[batch, classes]`."""
        state = self.stem(images)
        state = self._chain(state) if self.connection is None else self._connected(state)
        logits: Tensor = self.classifier(state.mean((2, 3)))
        return logits

    def _chain(self, state: Tensor) -> Tensor:
        for block in self._blocks():
            state = (block(state) + block.shortcut(state)).relu_()
        return state

    def _connected(self, state: Tensor) -> Tensor:
        blocks = self._blocks()
        sums = self._open_sums(blocks)
        prefix = _Prefix(self.spaces)
        for j, block in enumerate(blocks):
            if j > 0:
                space = block.origin
                if j in sums.inputs:
                    state = sums.gather(j, self._missing_identity(j, prefix, space))
                else:
                    state = prefix.sum(space, 1 / j if self.mean else 1.0)
            residual, identity = block(state), block.shortcut(state)
            if j == len(blocks) - 1:
                break
            if sums.inputs:
                scale = 1 / self.fan_in if self.mean else 1.0
                residual, identity = sums.store(j, residual, identity, scale)
            if j < self.fan_in:  # only the next K inputs can be sums over all earlier blocks
                prefix.add(residual, identity, block.space)
        sums.close()
        return (residual + identity).relu_()

    def _open_sums(self, blocks: list[ResidualBlock]) -> BlockSums | PlainBlockSums:
        """What feeds the blocks that have a choice; the others read all earlier blocks."""
        assert isinstance(self.connection, Gate | Selection)
        weighted = self._weighted
        inputs = {
            j: self.spaces.index(block.origin)
            for j, block in enumerate(blocks)
            if j > 0 and (weighted or j > self.fan_in)
        }
        stages = [self.spaces.index(block.space) for block in blocks[:-1]]
        kind = PlainBlockSums if torch.compiler.is_compiling() else BlockSums
        return kind(self.connection.weights(), stages, self.spaces, inputs)

    def _missing_identity(self, j: int, prefix: "_Prefix", space: Space) -> Tensor | None:
        """A block with fewer than K sources counts each identity more than `1 / K` times."""
        if not self.mean or j >= self.fan_in:
            return None
        return prefix.identities_in(space) * (1 / j - 1 / self.fan_in)

    def wiring(self) -> Wiring:
        """Blocks as nodes and possible connections as edges, as used in evaluation mode."""
        stem_conv = self.stem[0]
        assert isinstance(stem_conv, nn.Conv2d)
        side = -(-self.image_size // stem_conv.stride[0])
        graph = WiringColumns()
        last = graph.add("stem", count_parameters(self.stem), stem_conv.weight.numel() * side**2)
        for j, (name, block) in enumerate(zip(self.blocks, self._blocks(), strict=True)):
            side = -(-self.image_size // block.origin.reduction)
            choice = self._choice(j) if j > 0 else None
            reads = [last] if choice is None else range(1, j + 1)
            costs = count_parameters(block), block.multiply_adds(side, side)
            last = graph.add(name, *costs, reads, choice=choice)
        size = count_parameters(self.classifier)
        graph.add("classifier", size, self.classifier.weight.numel(), [last])
        return graph.wiring()

    def _choice(self, j: int) -> Choice | None:
        """What the connection says about the edges into block j, counted from 0."""
        selection = self._selection()
        if selection is None:
            return None
        gate = self.connection if isinstance(self.connection, Gate) else None
        active = selection.matrix != 0 if gate is None else gate.best
        learnable = gate is not None and gate.mode != "random" and j > self.fan_in
        return Choice(active[j - 1, :j].tolist(), selection.score[j - 1, :j].tolist(), learnable)

    def compact(self) -> "ResidualNetwork":
        """The same function in evaluation mode, without unused blocks and without gates."""
        live = self.wiring().live_nodes[1:-1].tolist()
        kept = [index for index, alive in enumerate(live) if alive]
        names = list(self.blocks)
        selection = self._selection()
        compacted = ResidualNetwork(
            deepcopy(self.stem),
            {names[index]: deepcopy(self._blocks()[index]) for index in kept},
            # Its sources outlive a block, so those that read all earlier ones still do.
            selection and selection.keep([j - 1 for j in kept[1:]], kept[:-1]),
            self.fan_in,
            self.mean,
            self.spaces,
            deepcopy(self.classifier),
            self.image_size,
        )
        return compacted.eval()

    def _blocks(self) -> list[ResidualBlock]:
        return [block for block in self.blocks.values() if isinstance(block, ResidualBlock)]

    def _selection(self) -> Selection | None:
        return self.connection.selection() if isinstance(self.connection, Gate) else self.connection

    @property
    def _weighted(self) -> bool:
        if isinstance(self.connection, Gate):
            return self.connection.log_weights is not None
        assert isinstance(self.connection, Selection)
        return not self.connection.binary


class _Prefix:
    """The sums of the residuals and of the identities of all blocks so far."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.spaces = spaces
        self.space = spaces[0]
        self.residuals: Tensor | None = None
        self.identities: Tensor | None = None

    def add(self, residual: Tensor, identity: Tensor, space: Space) -> None:
        """Add one block."""
        if self.residuals is None or self.identities is None:
            self.residuals, self.identities = residual, identity
        else:
            self._move(space)
            self.residuals, self.identities = self.residuals + residual, self.identities + identity
        self.space = space

    def sum(self, space: Space, identity_scale: float) -> Tensor:
        """The rectified sum of all blocks, their identities scaled."""
        identities = self.identities_in(space)
        assert self.residuals is not None
        return torch.add(self.residuals, identities, alpha=identity_scale).relu_()

    def identities_in(self, space: Space) -> Tensor:
        """The sum of the identities in the shape of a stage."""
        self._move(space)
        assert self.identities is not None
        return self.identities

    def _move(self, space: Space) -> None:
        if space == self.space:
            return
        assert self.residuals is not None
        assert self.identities is not None
        self.residuals = lift(self.residuals, self.space, space)
        self.identities = lift(self.identities, self.space, space)
        self.space = space
