"""Residual blocks, each of which reads the sum of some earlier ones."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional import BlockInputs, BlockSums, PlainBlockSums, Space, lift
from wiring_lightning.functional.transforms import is_transformed
from wiring_lightning.nn import Gate, ResidualBlock, Selection
from wiring_lightning.nn.described import Described
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.hooks import in_place_of
from wiring_lightning.nn.plain_weights import of_plain_weights
from wiring_lightning.wiring import Wiring, WiringBuilder

Connection = Gate | Selection


class ResidualNetwork(Described):
    """Stem, residual blocks, average pooling and a linear classifier.

    The first block reads the stem, and the classifier the last block. Without a connection every
    other block reads the one before. With one, block j reads `K_j = min(K, j - 1)` earlier blocks:
    `relu(sum_k m_jk (F_k + s_j x_k))`, where `s_j` is `1 / K_j` with `mean`, and 1 otherwise.

    Args:
        stem: the first layers.
        blocks: the residual blocks, in order.
        connection: `[blocks - 1, blocks - 1]`, row j - 2 for block j and column k - 1 for block k.
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
        """The output of the last block, if each block reads the one before."""
        blocks = self._blocks()
        space = blocks[0].origin
        for block in blocks:
            state = lift(state, space, block.origin)  # a compact network may lack whole stages
            state = (block(state) + block.shortcut(state)).relu_()
            space = block.space
        return state

    def _connected(self, state: Tensor) -> Tensor:
        """The output of the last block, if the connection says which blocks each block reads."""
        assert self.connection is not None
        blocks = self._blocks()
        inputs = BlockInputs(
            self.spaces,
            [block.origin for block in blocks],
            [self.spaces.index(block.space) for block in blocks],
            self.fan_in,
            self.mean,
            self.connection.binary,
        )
        kind = PlainBlockSums if _is_recorded() else BlockSums
        sums = kind(self.connection.weights(), inputs)
        state = sums.enter(state)
        for j, block in enumerate(blocks[:-1]):
            sums.store(j, block(state))
            state = sums.gather(j + 1)
        sums.close()
        return (blocks[-1](state) + blocks[-1].shortcut(state)).relu_()

    def wiring(self) -> Wiring:
        """Blocks as nodes and possible connections as edges, active as in evaluation mode."""
        graph, side = WiringBuilder(), self.image_size
        stem = graph.add_layers("stem", self.stem, side=side)
        blocks = [
            graph.add_layers(name, block, side=-(-side // block.origin.reduction))
            for name, block in zip(self.blocks, self._blocks(), strict=True)
        ]
        graph.connect(stem, blocks[0])
        if self.connection is None:
            graph.connect(blocks[:-1], blocks[1:])
        else:
            graph.choose(blocks[:-1], blocks[1:], self.connection.choice())
        graph.add_layers("classifier", self.classifier, side=side, reads=blocks[-1:])
        return graph.wiring()

    @of_plain_weights
    def compact(self, fold_batch_norm: bool = False) -> "ResidualNetwork":
        """The network in evaluation mode, without gates and unused blocks.

        With K = 1 a chain of blocks is left, which needs no connection.

        Args:
            fold_batch_norm: fold the batch norms into the convolutions, for inference only, and
                store them in `torch.channels_last`, in which they are faster on a CPU.
        """
        live = self.wiring().live_nodes[1:-1].tolist()
        kept = [index for index, alive in enumerate(live) if alive]
        names = list(self.blocks)
        selection = self.connection and self.connection.selection()
        # The sources of a live block are live, so no block loses a source.
        selection = selection and selection.keep([j - 1 for j in kept[1:]], kept[:-1])
        if selection and self.fan_in == 1 and selection.reads_only_the_one_before:
            selection = None
        compacted = ResidualNetwork(
            stem=deepcopy(self.stem),
            blocks={names[index]: deepcopy(self._blocks()[index]) for index in kept},
            connection=selection,
            fan_in=self.fan_in,
            mean=self.mean,
            spaces=self.spaces,
            classifier=deepcopy(self.classifier),
            image_size=self.image_size,
        ).eval()
        if fold_batch_norm:
            fold_batch_norms(compacted).to(memory_format=torch.channels_last)
        return in_place_of(self, compacted)

    def _blocks(self) -> list[ResidualBlock]:
        return [block for block in self.blocks.values() if isinstance(block, ResidualBlock)]


def _is_recorded() -> bool:
    """Whether what is called now is compiled, traced or transformed, and not only computed."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    return tracing or torch.compiler.is_compiling() or is_transformed()
