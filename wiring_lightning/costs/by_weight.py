"""Multiply-adds of each weight of any network, counted in one forward pass."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from wiring_lightning.nn import store_dense
from wiring_lightning.nn.weights import SparseWeight, find_weights
from wiring_lightning.wiring import StoredLayer


class SparseCost(NamedTuple):
    """Multiply-adds of a network: of all its weights, and of those that are not zero."""

    dense: int
    sparse: int


def sparse_multiply_adds(network: nn.Module, example: Any) -> SparseCost:
    """Count the multiply-adds of a network with sparse weights, as the papers do.

    Products with weights are counted: convolutions and linear layers, also those inside of an
    attention or a recurrent layer. A multiplication and the addition after it are one. Biases,
    norms, activations and the products of an attention are not counted. A weight that is zero saves
    its multiply-adds.

    Args:
        network: any network, also with layers stored as CSR.
        example: its input, a batch of one; a tuple of several, or a mapping of them by name.

    Raises:
        Exception: of the network, if it does not take the example.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4 * 4, 10))
        >>> network[0].weight.data[2:] = 0
        >>> sparse_multiply_adds(network, torch.zeros(1, 3, 6, 6))  # 16 * 216 + 1280
        SparseCost(dense=4736, sparse=2144)
    """
    counts = multiply_adds_by_weight(with_parameters(network), example)
    sparse = sum(
        count * int(weight.count_nonzero()) // weight.numel() for weight, count in counts.items()
    )
    return SparseCost(sum(counts.values()), sparse)


def multiply_adds_by_weight(network: nn.Module, example: Any) -> dict[nn.Parameter, int]:
    """The dense multiply-adds of every weight that a network multiplies something with.

    The network answers in evaluation mode, without gradients, and is left as it was. A weight that
    is used several times counts each time. Arguments and errors are those of
    `sparse_multiply_adds`.

    Example:
        >>> network = nn.LSTM(3, 2)
        >>> counts = multiply_adds_by_weight(network, torch.zeros(5, 1, 3))
        >>> {name: counts.get(weight, 0) for name, weight in network.named_parameters()}
        {'weight_ih_l0': 120, 'weight_hh_l0': 80, 'bias_ih_l0': 0, 'bias_hh_l0': 0}
    """
    weights = [weight for weight in find_weights(network) if not weight.is_vector]
    counter = _Counter()
    by_name = dict(example) if isinstance(example, Mapping) else {}
    inputs = () if by_name else example if isinstance(example, tuple) else (example,)
    devices = {one.device for one in network.parameters()} - {torch.device("cpu")}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng([one for one in devices if one.type == "cuda"]))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_evaluating(network))
        stack.enter_context(_plain_kernels())
        stack.enter_context(parametrize.cached())
        for weight in weights:
            counter.watch(weight)
            # Older kinds of parametrizations compute the weight anew in every forward pass. And a
            # layer with a hook is called: it is not computed together with others.
            hook = weight.layer.register_forward_pre_hook(lambda *_, w=weight: counter.watch(w))
            stack.callback(hook.remove)
        stack.enter_context(counter)
        network(*inputs, **by_name)
    return dict(counter.counts)


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
    """Counts, for every weight, the multiply-adds of the operators that read its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[nn.Parameter] = Counter()
        # By the address of a memory: what lies there. The tensors are kept, so that nothing else
        # gets their memory meanwhile.
        self._watched: dict[int, list[tuple[Tensor, nn.Parameter]]] = {}

    def watch(self, weight: SparseWeight) -> None:
        """Count for a weight from now on; its values can be computed from its parameter."""
        key = weight.name.rpartition(".")[2]
        for value in (weight.parameter, getattr(weight.layer, key, None)):
            if isinstance(value, Tensor) and value.numel():
                places = self._watched.setdefault(value.untyped_storage().data_ptr(), [])
                if all(value is not known for known, _ in places):
                    places.append((value, weight.parameter))

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        result = func(*args, **kwargs)
        read = [owner for one in args if isinstance(one, Tensor) for owner in self._owners(one)]
        if read:
            # Torch counts a multiplication and an addition as two.
            self.counts[read[0]] += formula(*args, **kwargs, out_val=result) // 2
        return result

    def _owners(self, tensor: Tensor) -> Iterator[nn.Parameter]:
        """The parameter in whose memory a tensor begins, if there is one."""
        for value, owner in self._watched.get(tensor.untyped_storage().data_ptr(), []):
            if 0 <= tensor.storage_offset() - value.storage_offset() < value.numel():
                yield owner


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """No kernels that compute a whole attention or recurrent layer at once."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # oneDNN warns if it is asked for TF32 where it has none, even if that is its default.
        one_dnn = torch.backends.mkldnn.flags(
            enabled=False, allow_tf32=torch.backends.mkldnn.allow_tf32
        )
        with torch.backends.cudnn.flags(enabled=False), one_dnn:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
