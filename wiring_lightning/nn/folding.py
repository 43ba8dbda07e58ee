"""Batch norms folded into the convolutions before them, for networks that only infer."""

from itertools import pairwise
from typing import Any, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wiring_lightning.nn.fabric_modules import SubsetBatchNorm2d
from wiring_lightning.nn.hooks import computes_as, has_hooks
from wiring_lightning.nn.plain_weights import make_weights_plain
from wiring_lightning.nn.pointwise import PointwiseConv2d
from wiring_lightning.wiring import plain_layer

T = TypeVar("T", bound=nn.Module)
Convolution = TypeVar("Convolution", bound=nn.Conv2d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm
# The classes that compute in evaluation mode what `fuse_conv_bn_eval` takes them for.
_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, SubsetBatchNorm2d
_CONVOLUTIONS = nn.Conv2d, PointwiseConv2d


@runtime_checkable
class Foldable(Protocol):
    """A module that knows which of its batch norms follow a convolution."""

    def fold_batch_norm(self) -> None:
        """Fold them, in place."""
        ...


def fold_batch_norms(module: T) -> T:
    """Fold every batch norm that directly follows a convolution into it, in place.

    Pairs in an `nn.Sequential` become a convolution with a bias and an identity, so that all layers
    keep their numbers. `Foldable` modules fold their own pairs. The result computes what the module
    computes in evaluation mode, and is only for inference. A norm in front of a convolution stays,
    because a ReLU is between them. Norms without running statistics also stay, and so do pairs in
    which a layer or the module around them has hooks or a `forward` of its own. Weights that are
    computed of others become plain ones.

    Args:
        module: in evaluation mode; usually a copy.

    Raises:
        ValueError: if the module is in training mode.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        >>> fold_batch_norms(layers.eval())
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    if module.training:
        raise ValueError("batch norms can only be folded in evaluation mode: call `eval()` first.")
    for part in list(make_weights_plain(module).modules()):
        if computes_as(nn.Sequential, part):
            assert isinstance(part, nn.Sequential)
            _fold_sequential(part)
        elif isinstance(part, Foldable) and _computes_what_it_folds(part):
            part.fold_batch_norm()
    return module


def examples_are_independent(module: nn.Module) -> bool:
    """Whether no example changes what evaluation mode computes for others of its batch."""
    norms = (part for part in module.modules() if isinstance(part, BatchNorm))
    return all(norm.running_mean is not None for norm in norms)


def fold_pair(conv: Convolution, norm: nn.Module) -> tuple[Convolution, Any]:
    """One convolution for a layer and the norm behind it, and an identity for the norm.

    If they cannot be folded, both are returned as they are.
    """
    if not can_fold(conv, norm):
        return conv, norm
    fused = fuse_conv_bn_eval(cast(Convolution, plain_layer(conv)), cast(nn.BatchNorm2d, norm))
    return fused, nn.Identity().eval()


def can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a layer and the norm behind it can become one convolution."""
    return is_plain_convolution(conv) and can_fold_norm(norm)


def is_plain_convolution(layer: nn.Module) -> bool:
    """Whether a layer computes what `nn.Conv2d` does, and nobody waits for its calls."""
    plain = plain_layer(layer)
    return not has_hooks(layer) and any(computes_as(kind, plain) for kind in _CONVOLUTIONS)


def can_fold_norm(norm: nn.Module) -> TypeGuard[BatchNorm]:
    """Whether a module is a batch norm that computes the same for every batch."""
    known = any(computes_as(kind, norm) for kind in _NORMS)
    return known and cast(BatchNorm, norm).running_mean is not None


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
    """Fold the pairs in a sequence, in place; whoever indexes it finds every layer in its place."""
    for index, (layer, following) in enumerate(pairwise(list(layers))):
        if can_fold(layer, following):
            layers[index], layers[index + 1] = fold_pair(cast(nn.Conv2d, layer), following)


def _computes_what_it_folds(part: nn.Module) -> bool:
    """Whether the class that says which norms to fold also says what is computed."""
    kind = next(kind for kind in type(part).__mro__ if "fold_batch_norm" in vars(kind))
    return computes_as(kind, part)
