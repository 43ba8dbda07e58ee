"""Multiply-adds of each weight of any network, counted in one forward pass."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from wiring_lightning.costs.plain_kernels import plain_kernels
from wiring_lightning.nn import store_dense
from wiring_lightning.nn.checks import check_weights_exist
from wiring_lightning.nn.evaluating import evaluating
from wiring_lightning.nn.own_tensors import with_own_tensors
from wiring_lightning.nn.weights import SparseWeight, find_weights
from wiring_lightning.wiring import StoredLayer

# Layers that multiply their input with one weight.
_PLAIN = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


class SparseCost(NamedTuple):
    """Multiply-adds of a network: of all its weights, and of those that are not zero."""

    dense: int
    sparse: int


def sparse_multiply_adds(network: nn.Module, example: Any) -> SparseCost:
    """Count the multiply-adds of a network with sparse weights, as the papers do.

    Products with weights are counted: convolutions and linear layers, also those inside of an
    attention or a recurrent layer. A multiplication and the addition after it are one. Biases,
    norms, activations and the products of an attention are not counted. A weight that is zero saves
    its multiply-adds, even if the layer computes another weight from it, such as a standardized
    one, which may have no zeros. Of a parametrization that fills zeros, such as `orthogonal`, what
    it computes counts.

    Args:
        network: any network, also with layers stored as CSR.
        example: its input, a batch of one; a tuple of several, or a mapping of them by name.

    Raises:
        ValueError: if it has no weights yet, or calls a convolution or linear layer whose products
            cannot be counted, such as those of quantised layers.
        Exception: of the network, if it does not take the example.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
        >>> network[0].weight.data[2:] = 0
        >>> sparse_multiply_adds(network, torch.zeros(1, 3, 6, 6))  # 16 * 216 + 1280
        SparseCost(dense=4736, sparse=2144)
    """
    check_weights_exist(network)
    network = with_parameters(network)
    counts, unknown, hidden = count_weights(network, example)
    if hidden:
        raise ValueError(
            f"the multiply-adds of {min(hidden)} are not known, because its weight is packed into "
            "a form of its own: count the network before its layers are quantised."
        )
    if unknown:
        names = [name for name, weight in network.named_parameters() if weight in unknown]
        raise ValueError(
            f"the multiply-adds of {names[0]} are not known, because its layer computes by other "
            "operators than convolutions and matrix products: use layer_costs for all others."
        )
    filled = {w.parameter: w.present for w in find_weights(network) if w.fills_zeros}
    sparse = sum(
        count * int(filled.get(weight, weight).count_nonzero()) // weight.numel()
        for weight, count in counts.items()
    )
    return SparseCost(sum(counts.values()), sparse)


def multiply_adds_by_weight(network: nn.Module, example: Any) -> dict[nn.Parameter, int]:
    """The dense multiply-adds of every weight that a network multiplies something with.

    The network answers in evaluation mode, without gradients, and is left as it was. A weight that
    is used several times counts each time. If the network computes the weight of a product from one
    parameter, as weight standardization and autocast do, the parameter counts. What cannot be
    counted is left out. Arguments and errors of the network are those of `sparse_multiply_adds`.

    Example:
        >>> network = nn.LSTM(3, 2)
        >>> counts = multiply_adds_by_weight(network, torch.zeros(5, 1, 3))
        >>> {name: counts.get(weight, 0) for name, weight in network.named_parameters()}
        {'weight_ih_l0': 120, 'weight_hh_l0': 80, 'bias_ih_l0': 0, 'bias_hh_l0': 0}
    """
    return count_weights(network, example)[0]


def count_weights(
    network: nn.Module, example: Any
) -> tuple[dict[nn.Parameter, int], set[nn.Parameter], set[str]]:
    """Count as `multiply_adds_by_weight`, and find what cannot be counted.

    Arguments and errors of the network are those of `sparse_multiply_adds`.

    Returns:
        The multiply-adds by weight, the weights of called layers whose products are not known, and
        the names of operators that multiply with weights that are no parameters.
    """
    weights = [weight for weight in find_weights(network) if not weight.is_vector]
    counter = _Counter()
    example = with_own_tensors(dict(example) if isinstance(example, Mapping) else example)
    by_name = example if isinstance(example, dict) else {}
    inputs = () if by_name else example if isinstance(example, tuple) else (example,)
    devices = {one.device for one in network.parameters()} - {torch.device("cpu")}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng([one for one in devices if one.type == "cuda"]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(evaluating(network))
        stack.enter_context(plain_kernels())
        stack.enter_context(parametrize.cached())
        matrices = {weight.parameter for weight in weights}
        for tensor in chain(network.parameters(), network.buffers()):
            if tensor not in matrices:
                counter.own(tensor, None)
        for weight in weights:
            counter.watch(weight)
            for hook in _tell_of_calls(counter, weight):
                stack.callback(hook.remove)
        stack.enter_context(counter)
        network(*inputs, **by_name)
    return dict(counter.counts), counter.called - counter.counts.keys(), counter.hidden


def _tell_of_calls(counter: "_Counter", weight: SparseWeight) -> list[RemovableHandle]:
    """Tell a counter whenever the layer of a weight is called.

    Older kinds of parametrizations compute the weight anew in every forward pass, so the counter
    has to look at it again. And a layer with a hook is called: networks that compute several layers
    together leave such layers alone.
    """
    layer = weight.layer
    hooks = [layer.register_forward_pre_hook(lambda *_: counter.watch(weight))]
    if "weight" in weight.name.rpartition(".")[2]:  # not for each of a layer's other parameters
        hooks.append(layer.register_forward_pre_hook(lambda *_: counter.enter(weight)))
        hooks.append(layer.register_forward_hook(lambda *_: counter.leave()))
    return hooks


def with_parameters(network: nn.Module) -> nn.Module:
    """The network, or a copy with plain layers if some are stored as CSR: these have no parameters.

    Example:
        >>> from wiring_lightning.nn import SparseLinear
        >>> network = SparseLinear(nn.Linear(4, 2))
        >>> sum(weight.numel() for weight in with_parameters(network).parameters())
        10
    """
    stored = any(isinstance(layer, StoredLayer) for layer in network.modules())
    return store_dense(network) if stored else network


class _Counter(TorchDispatchMode):
    """Counts, for every weight, the multiply-adds of the operators that read it.

    An operator reads a weight if it reads its memory, or what was computed of this weight and of no
    input. A convolution that reads neither, as with a mixture of experts, belongs to the layer that
    runs, and so does any product inside of a linear layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[nn.Parameter] = Counter()
        self.called: set[nn.Parameter] = set()  # weights of convolutions and linear layers
        self.hidden: set[str] = set()  # operators that multiply with packed weights
        self._running: list[SparseWeight] = []
        # By the address of a memory: what lies there, and of which weight it was computed; `None`
        # for other parameters and buffers. The tensors are kept, so that nothing else gets their
        # memory meanwhile.
        self._owned: dict[int, list[tuple[Tensor, nn.Parameter | None]]] = {}

    def own(self, value: Tensor, owner: nn.Parameter | None) -> None:
        """Take a tensor for a weight, or for a constant of the network."""
        if value.numel():
            places = self._owned.setdefault(value.untyped_storage().data_ptr(), [])
            if all(value is not known for known, _ in places):
                places.append((value, owner))

    def watch(self, weight: SparseWeight) -> None:
        """Count for a weight from now on; its values can be computed from its parameter."""
        key = weight.name.rpartition(".")[2]
        for value in (weight.parameter, getattr(weight.layer, key, None)):
            if isinstance(value, Tensor):
                self.own(value, weight.parameter)

    def enter(self, weight: SparseWeight) -> None:
        """The layer of a weight begins to compute."""
        self._running.append(weight)
        if isinstance(weight.layer, _PLAIN):
            self.called.add(weight.parameter)

    def leave(self) -> None:
        """The layer that began last has ended."""
        self._running.pop()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if _packs_weight(func):
            self.hidden.add(func.name())
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is None:
            self._hand_on((args, kwargs), result)
        elif (owner := self._reader(func, args)) is not None:
            # Torch counts a multiplication and an addition as two.
            self.counts[owner] += formula(*args, **kwargs, out_val=result) // 2
        return result

    def _owners(self, tensor: Tensor) -> list[nn.Parameter | None]:
        """Whose memory a tensor begins in; empty if it depends on the input."""
        return [
            owner
            for value, owner in self._owned.get(tensor.untyped_storage().data_ptr(), [])
            if 0 <= tensor.storage_offset() - value.storage_offset() < value.numel()
        ]

    def _hand_on(self, read: Any, result: Any) -> None:
        """Make a result stand for a weight, if it was computed of the network's tensors alone.

        Of several weights it is the largest: the others are its scales. What was computed of an
        input stands for nothing.
        """
        owners = [self._owners(one) for one in _tensors(read) if one.dim()]
        if owners and all(owners):
            weights = {owner for own in owners for owner in own if owner is not None}
            largest = max(weights, key=Tensor.numel, default=None)
            for value in _tensors(result):
                if not self._owners(value):
                    self.own(value, largest)

    def _reader(self, func: Any, args: tuple[Any, ...]) -> nn.Parameter | None:
        """The weight that a product counts for; `None` if it counts for none.

        If both factors are weights it is the later one, since a layer gives its input first.
        """
        owners = [self._owners(one) if isinstance(one, Tensor) else [] for one in args]
        weights = [owner for own in owners for owner in own if owner is not None]
        if weights:
            return weights[-1]
        convolution = "convolution" in func.overloadpacket.__name__ and not owners[1]
        if not self._running or not (convolution or isinstance(self._running[-1].layer, _PLAIN)):
            return None
        return self._running[-1].parameter


def _packs_weight(func: Any) -> bool:
    """Whether an operator multiplies with a weight in a form of its own, as quantised ones do."""
    space, _, name = func.name().partition("::")
    own = space in ("quantized", "onednn") or name.startswith("quantized_")
    return own and any(kind in name for kind in ("linear", "conv", "lstm", "gru", "rnn", "matmul"))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors among the arguments or results of an operator."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
