"""Layers of a network stored as CSR, where that measures faster."""

import time
from collections.abc import Callable, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from wiring_lightning.nn.checks import check_weights_exist
from wiring_lightning.nn.csr import has_csr_product
from wiring_lightning.nn.hooks import computes_as
from wiring_lightning.nn.own_tensors import with_own_tensors
from wiring_lightning.nn.plain_weights import with_plain_weights
from wiring_lightning.nn.replacing import replace_modules
from wiring_lightning.nn.sparse_conv import SparseConv2d
from wiring_lightning.nn.sparse_linear import SparseLinear
from wiring_lightning.nn.tied_layers import tied_layers
from wiring_lightning.wiring import StoredLayer

_ROUNDS = 15  # timed calls of each layer, of which the fastest counts


@torch.no_grad()
def store_sparse(
    model: nn.Module, example: Tensor, clock: Callable[[], float] = time.perf_counter
) -> nn.Module:
    """A copy of a network in which layers are stored as CSR if that measures faster.

    Linear layers become `SparseLinear`, convolutions `SparseConv2d`. Each such layer with zeros is
    timed on what it gets from the example, sparse and dense; the fastest round of each counts. So
    the choice is that of this machine, its number of threads and this batch. At a density above a
    third it is rarely the sparse one. These layers stay dense:

    - convolutions that `SparseConv2d` does not take, such as those with groups;
    - layers of a dtype in which torch has no product with CSR, such as bfloat16 on a CPU;
    - layers that are not called, such as those of `nn.TransformerEncoderLayer` in evaluation, which
      gives their weights to one operator;
    - layers that share a parameter with another one, such as with an embedding: it stays shared;
    - layers of other classes, also of subclasses, and those with hooks or a `forward` of their own.

    A file of `export.export_network` has the dense layers, and `store_dense` gives them back. The
    methods `wiring()` and `compact()` of a network see the dense layers, too, so its costs are the
    same. Where `compact()` changes a layer, it stays dense: store the compact network again.
    Weights that are computed of others, as by `torch.nn.utils.prune`, become plain ones.

    Args:
        model: any network; only its `nn.Linear` and `nn.Conv2d` layers are looked at.
        example: an input of it, of the batch size that it will get.
        clock: tells the time.

    Returns:
        The network in evaluation mode; it cannot be trained.

    Raises:
        ValueError: if the network has no weights yet, or does not run with CSR, such as where it
            calls a layer and also computes the norm of its weight.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(8, 64, 1), nn.Flatten(), nn.Linear(64 * 4 * 4, 10))
        >>> _ = model[0].weight.data[:, 1:].zero_()
        >>> packed = store_sparse(model, torch.randn(8, 8, 4, 4))
        >>> type(packed[2]).__name__  # it has no zeros
        'Linear'
    """
    check_weights_exist(model)
    packed = deepcopy(with_plain_weights(model)).eval()
    tied = tied_layers(packed)
    sparse = {
        layer: other
        for layer in packed.modules()
        if layer not in tied and (other := _stored_sparse(layer)) is not None
    }
    saved = _saved_seconds(packed, sparse, example, clock)
    packed = replace_modules(packed, {layer: sparse[layer] for layer in saved if saved[layer] > 0})
    try:
        packed(with_own_tensors(example))
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} does not run with layers stored as CSR ({error}). Layers "
            "whose weight it also reads itself have to stay dense: store only parts without them."
        ) from error
    return packed


def store_dense(model: nn.Module) -> nn.Module:
    """A copy of a network with plain layers in the place of those that are stored as CSR.

    Weights that are computed of others, as by a weight norm, become plain ones in the copy.

    Example:
        >>> layer = nn.Linear(8, 4)
        >>> _ = layer.weight.data[:, 1:].zero_()
        >>> dense = store_dense(nn.Sequential(SparseLinear(layer)))
        >>> torch.equal(dense[0].weight, layer.weight)
        True
    """
    dense = deepcopy(with_plain_weights(model))
    stored = [m for m in dense.modules() if isinstance(m, StoredLayer)]
    return replace_modules(dense, {layer: layer.dense() for layer in stored})


def _stored_sparse(layer: nn.Module) -> nn.Module | None:
    """The layer stored as CSR, or `None` if it has to stay dense or has no zeros."""
    kind = type(layer)
    if kind not in (nn.Linear, nn.Conv2d) or not computes_as(kind, layer):
        return None
    if isinstance(layer, nn.Linear) and _has_zeros(layer.weight):
        return SparseLinear(layer)
    if isinstance(layer, nn.Conv2d) and SparseConv2d.takes(layer) and _has_zeros(layer.weight):
        return SparseConv2d(layer)
    return None


def _has_zeros(weight: Tensor) -> bool:
    return not weight.all() and has_csr_product(weight)


def _saved_seconds(
    model: nn.Module,
    sparse: Mapping[nn.Module, nn.Module],
    example: Tensor,
    clock: Callable[[], float],
) -> dict[nn.Module, float]:
    """Seconds that each layer takes less if it is sparse, over all of its calls.

    Layers whose weight others read themselves are not called, and not in the result. They would be
    called if they had hooks, so there are none: with hooks, PyTorch's transformer layers call their
    linear layers, and otherwise give the weights to one operator, which takes dense ones only.
    """
    saved: dict[nn.Module, float] = {}

    def timing(layer: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            def dense() -> Tensor:
                return type(layer).forward(layer, input)

            seconds = _seconds(lambda: sparse[layer](input), input.device, clock)
            seconds -= _seconds(dense, input.device, clock)
            saved[layer] = saved.get(layer, 0.0) - seconds
            return dense()

        return forward

    for layer in sparse:
        vars(layer)["forward"] = timing(layer)
    try:
        model(with_own_tensors(example))
    finally:
        for layer in sparse:
            del vars(layer)["forward"]
    return saved


def _seconds(call: Callable[[], Tensor], device: torch.device, clock: Callable[[], float]) -> float:
    """The fastest of some calls, after one to warm up."""
    times = []
    for _ in range(_ROUNDS + 1):
        start = clock()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(clock() - start)
    return min(times[1:])
