"""What layers with a weight stored as CSR have in common."""

import warnings
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def as_csr(matrix: Tensor) -> Tensor:
    """The matrix as CSR, without its zeros and without torch's warning that CSR is in beta.

    Example:
        >>> as_csr(torch.eye(3)).values()
        tensor([1., 1., 1.])
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return matrix.detach().to_sparse_csr()


def has_csr_product(weight: Tensor) -> bool:
    """Whether torch can multiply CSR matrices of this dtype on this device, such as for float32.

    It is tried on one number, so an error of a real product is not taken for a missing kernel.

    Example:
        >>> has_csr_product(torch.zeros(2, dtype=torch.int64))
        False
    """
    one = weight.detach().new_ones(1, 1)
    try:
        torch.mm(as_csr(one), one, out=torch.empty_like(one))
    except RuntimeError:  # also `NotImplementedError`, which torch raises on a CPU
        return False
    return True


def learns(tensor: Tensor | None) -> bool:
    """Whether the weight or bias of a dense layer learns; one that is computed counts as such.

    Example:
        >>> learns(nn.Linear(2, 2).requires_grad_(False).weight)
        False
    """
    return not isinstance(tensor, nn.Parameter) or tensor.requires_grad


def copy_with_csr(module: Module, memo: dict[int, Any]) -> Module:
    """What `__deepcopy__` gives for a module with a CSR `weight`, which torch does not copy itself.

    Args:
        module: its attribute `weight` is CSR.
        memo: the memo of `__deepcopy__`.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    memo[id(weight)] = weight.clone()
    copied = type(module).__new__(type(module))
    memo[id(module)] = copied
    vars(copied).update(deepcopy(vars(module), memo))
    return copied
