"""The table of `wiring export` counts multiply-adds as by hand, whatever kernels compute them."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wiring_lightning.cli.export_table import export_table, multiply_adds
from wiring_lightning.export import export_network

TOKENS, WIDTH, HEADS, HIDDEN, CLASSES = 9, 8, 2, 12, 5
IMAGES = torch.randn(3, WIDTH, 3, 3)
# Queries, keys and values; the output; scores of each query and each key; the sums of values.
ATTENTION = TOKENS * WIDTH * (3 * WIDTH + WIDTH) + 2 * TOKENS * TOKENS * WIDTH
HEAD = WIDTH * CLASSES


class Tokens(nn.Module):
    """A network of tokens, which are the pixels of an image, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mixed(images.flatten(2).transpose(1, 2)).mean(1))

    def mixed(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class Own(Tokens):
    """Attention by torch's function, as in timm's networks."""

    WORK = ATTENTION + HEAD

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def mixed(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class Module(Tokens):
    """torch's layer, which has a fast path of its own."""

    WORK = ATTENTION + HEAD

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Encoder(Tokens):
    """A whole layer of torch's transformer, which runs as one kernel."""

    WORK = ATTENTION + 2 * TOKENS * WIDTH * HIDDEN + HEAD

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Recurrent(Tokens):
    """Four gates of two products at each token, also one kernel."""

    WORK = TOKENS * 4 * (WIDTH * WIDTH + WIDTH * WIDTH) + HEAD

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.lstm(tokens)[0]


class Singular(Tokens):
    """Singular values, an operator that only a program of torch can hold."""

    WORK = TOKENS * WIDTH * WIDTH + HEAD

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens) + torch.linalg.svdvals(tokens).mean(1)[:, None, None]


@pytest.mark.parametrize("kind", [Own, Module, Encoder, Recurrent, Singular])
def test_all_columns_count_as_by_hand(
    kind: type[Own], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wiring_lightning.cli.export_table._SECONDS", 0.0)
    torch.manual_seed(0)
    network = kind().eval()
    done = export_network(network, tmp_path / "net.pt2", IMAGES)
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"")
    lines = export_table(network, checkpoint, done, IMAGES).splitlines()
    (line,) = [line for line in lines if line.startswith("multiply-adds")]
    counts = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", line)]
    assert counts == [kind.WORK] * 3
    assert multiply_adds(network, IMAGES) == len(IMAGES) * kind.WORK
