"""Linear layers whose weight is stored as CSR, where that is faster."""

import time
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

_ROUNDS = 15


class SparseLinear(nn.Module):
    """A linear layer for evaluation whose weight is stored as CSR, without its zeros.

    Args:
        layer: the layer whose weight and bias are taken.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> _ = layer.weight.data[:, 1:].zero_()
        >>> sparse, inputs = SparseLinear(layer), torch.randn(2, 3, 8)
        >>> sparse.weight.values().numel(), torch.allclose(sparse(inputs), layer(inputs))
        (4, True)
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            weight = layer.weight.detach().to_sparse_csr()
        self.register_buffer("weight", weight)
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        rows = input.reshape(-1, input.shape[-1])
        outputs = (self.weight @ rows.T).T.reshape(*input.shape[:-1], len(self.weight))
        return outputs if self.bias is None else outputs + self.bias

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseLinear":
        """A copy; PyTorch itself cannot copy a CSR tensor in this way."""
        memo[id(self.weight)] = self.weight.clone()
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(deepcopy(vars(self), memo))
        return copied

    def dense(self) -> nn.Linear:
        """The same layer as a plain one, such as for a file that other programs read."""
        rows, columns = self.weight.shape
        layer = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight.to_dense())
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.clone())
        return layer.train(self.training)

    @override
    def extra_repr(self) -> str:
        rows, columns = self.weight.shape
        return f"{columns} -> {rows}, {self.weight.values().numel():,} weights"


@torch.no_grad()
def store_sparse(
    model: nn.Module, example: Tensor, clock: Callable[[], float] = time.perf_counter
) -> nn.Module:
    """A copy of a network in which linear layers are `SparseLinear` if that measures faster.

    Each linear layer with zeros is timed on what it gets from the example, sparse and dense; the
    fastest round of each counts. So the choice is that of this machine, its number of
    threads and this batch. At a density above a third it is rarely the sparse one. A layer that is
    not called stays dense, such as those of `nn.TransformerEncoderLayer` in evaluation, which gives
    their weights to one operator. A file of `export.export_network` has the dense layers.

    Args:
        model: any network; only its `nn.Linear` layers are looked at.
        example: an input of it, of the batch size that it will get.
        clock: tells the time.

    Returns:
        The network in evaluation mode; it cannot be trained.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> _ = model[0].weight.data[:, 1:].zero_()
        >>> packed = store_sparse(model, torch.randn(8, 64))
        >>> type(packed[2]).__name__  # it has no zeros
        'Linear'
    """
    packed = deepcopy(model).eval()
    layers = {
        name: layer
        for name, layer in packed.named_modules()
        if type(layer) is nn.Linear and not layer.weight.all()
    }
    for name, given in _inputs(packed, layers, example).items():
        sparse = SparseLinear(layers[name])
        if _seconds(sparse, given, clock) < _seconds(layers[name], given, clock):
            parent, _, last = name.rpartition(".")
            setattr(packed.get_submodule(parent), last, sparse)
    return packed


def _inputs(
    model: nn.Module, layers: Mapping[str, nn.Linear], example: Tensor
) -> dict[str, Tensor]:
    """What each layer is given, by name; nothing for those whose weight others read themselves.

    Not with hooks: PyTorch's transformer layers call their linear layers if these have hooks, and
    otherwise give the weights to one operator, which takes dense ones only.
    """
    inputs: dict[str, Tensor] = {}

    def recording(name: str, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            inputs[name] = input
            return nn.Linear.forward(layer, input)

        return forward

    for name, layer in layers.items():
        vars(layer)["forward"] = recording(name, layer)
    try:
        model(example)
    finally:
        for layer in layers.values():
            del vars(layer)["forward"]
    return inputs


def _seconds(layer: nn.Module, inputs: Tensor, clock: Callable[[], float]) -> float:
    """The fastest of some calls, after one to warm up."""
    times = []
    for _ in range(_ROUNDS + 1):
        start = clock()
        layer(inputs)
        if inputs.device.type != "cpu":
            torch.accelerator.synchronize(inputs.device)
        times.append(clock() - start)
    return min(times[1:])
