"""Batch norms folded into the convolutions before them, for networks that only infer."""

from itertools import pairwise
from typing import Any, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wiring_lightning.wiring import plain_layer

T = TypeVar("T", bound=nn.Module)
C = TypeVar("C", bound=nn.Conv2d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm


@runtime_checkable
class Foldable(Protocol):
    """A module that knows which of its batch norms follow a convolution."""

    def fold_batch_norm(self) -> None:
        """Fold them, in place."""
        ...


def fold_batch_norms(module: T) -> T:
    """Fold every batch norm that directly follows a convolution into it, in place.

    Pairs in an `nn.Sequential` become one convolution with a bias. `Foldable` modules fold their
    own pairs. The result computes what the module computes in evaluation mode, and is only for
    inference. A norm in front of a convolution stays, because a ReLU is between them. A norm
    without running statistics also stays.

    Args:
        module: in evaluation mode; usually a copy.

    Raises:
        ValueError: if the module is in training mode.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        >>> fold_batch_norms(layers.eval())
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): ReLU()
        )
    """
    if module.training:
        raise ValueError("batch norms can only be folded in evaluation mode: call `eval()` first.")
    for part in list(module.modules()):
        if isinstance(part, nn.Sequential):
            _fold_sequential(part)
        elif isinstance(part, Foldable):
            part.fold_batch_norm()
    return module


def examples_are_independent(module: nn.Module) -> bool:
    """Whether no example changes what evaluation mode computes for others of its batch."""
    norms = (part for part in module.modules() if isinstance(part, BatchNorm))
    return all(norm.running_mean is not None for norm in norms)


def fold_pair(conv: C, norm: nn.Module) -> tuple[C, Any]:
    """The convolution with the norm in it, and an identity; both as they are if it cannot be."""
    if not can_fold(norm):
        return conv, norm
    return fuse_conv_bn_eval(cast(C, plain_layer(conv)), norm), nn.Identity().eval()


def can_fold(norm: nn.Module) -> TypeGuard[BatchNorm]:
    """Whether a module is a batch norm that computes the same for every batch."""
    return isinstance(norm, BatchNorm) and norm.running_mean is not None


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a batch norm with running statistics does in evaluation mode, `[channels]` each.

    Example:
        >>> scale, shift = scale_and_shift(nn.BatchNorm2d(1, eps=3.0))
        >>> scale.item(), shift.item()
        (0.5, 0.0)
    """
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _fold_sequential(layers: nn.Sequential) -> None:
    followed = [
        index
        for index, (layer, following) in enumerate(pairwise(layers))
        if isinstance(plain_layer(layer), nn.Conv2d) and can_fold(following)
    ]
    for index in reversed(followed):
        conv = plain_layer(layers[index])
        assert isinstance(conv, nn.Conv2d)
        layers[index], _ = fold_pair(conv, layers[index + 1])
        del layers[index + 1]
