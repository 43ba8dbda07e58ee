"""A linear layer whose weight is stored as CSR."""

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from wiring_lightning.functional.autocast import autocast_type, without_autocast
from wiring_lightning.nn.csr import as_csr, copy_with_csr, learns
from wiring_lightning.wiring import StoredLayer


class SparseLinear(StoredLayer):
    """A linear layer for evaluation whose weight is stored as CSR, without its zeros.

    Under autocast it computes in the precision of its weight.

    Args:
        layer: the layer whose weight and bias are taken.

    Example:
        >>> import torch
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
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._learned = learns(layer.weight), learns(layer.bias)  # for `dense`
        self.register_buffer("weight", as_csr(layer.weight))
        bias = None if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)

    @override
    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        if autocast_type(input.device) is not None:  # torch has no CSR product in bfloat16 on a CPU
            with without_autocast(input.device):
                return self.forward(input.to(self.weight.dtype))
        rows = input.reshape(-1, input.shape[-1])
        outputs = (self.weight @ rows.T).T.reshape(*input.shape[:-1], len(self.weight))
        return outputs if self.bias is None else outputs + self.bias

    def __deepcopy__(self, memo: dict[int, Any]) -> "SparseLinear":
        return copy_with_csr(self, memo)

    @override
    def dense(self) -> nn.Linear:
        """The same layer as a plain one, such as for a file that other programs read."""
        bias, (weight_learned, bias_learned) = self.bias is not None, self._learned
        layer = nn.Linear(self.in_features, self.out_features, bias=bias, device="meta")
        layer.weight = nn.Parameter(self.weight.to_dense(), weight_learned)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.clone(), bias_learned)
        return layer.train(self.training)

    @override
    def extra_repr(self) -> str:
        count = self.weight.values().numel()
        return f"{self.in_features} -> {self.out_features}, {count:,} weights"
