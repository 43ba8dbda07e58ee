"""Removing channels that nobody reads from a plain network with sparse weights."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wiring_lightning.nn.channels import MIXING_NORMS
from wiring_lightning.nn.checks import check_weights_exist
from wiring_lightning.nn.differences import largest_difference, largest_size
from wiring_lightning.nn.own_tensors import with_own_tensors
from wiring_lightning.nn.plain_weights import with_plain_weights
from wiring_lightning.nn.reached import called_modules, factors, unreached_layers
from wiring_lightning.nn.tied_layers import tied_layers

_CHANNELWISE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)
_TOLERANCE = 1e-4  # between float32 sums of fewer and of more terms, as a share of the largest
_NOISE = 10  # standard deviation of what is written into dead channels, times the largest output


@torch.no_grad()
def remove_dead_channels(model: nn.Module, example: Tensor | tuple[Any, ...]) -> nn.Module:
    """A copy of a network without the channels that no weight reads; its answers are the same.

    A channel is dead if all weights of all layers that read it are zero, as sparse training can
    leave it. Without it, other channels can become dead, too. Which layers share a channel, also
    over sums and concatenations, is found by torch-pruning (extra `pruning`) from one forward pass.
    Every layer keeps at least one channel. Channels that pass a layer norm, a grouped convolution,
    a parameter of the network itself, a layer with tied weights or a function that multiplies
    matrices stay, since there others depend on them. So do those on which the answer depends in any
    other way, such as by a local response norm or a softmax over channels: numbers are written into
    them, and the answer must not change.

    Only what the example reaches is looked at. A layer that runs in training alone, such as an
    auxiliary head, stays as it is, and may read a channel that is removed; a warning names the
    first one. Then the smaller network is for inference: it may not run in training mode.

    Args:
        model: convolutions and linear layers, such as a network of torchvision or timm.
        example: `[batch, ...]` an input of the network, or a tuple of several ones.

    Returns:
        The smaller network, in evaluation mode.

    Raises:
        ImportError: if torch-pruning is not installed.
        ValueError: if the network has no weights yet or does not return one tensor, torch-pruning
            cannot follow it, or the smaller one does not give the same answer for the example.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> _ = model[2].weight.data[:, 5:].zero_()
        >>> small = remove_dead_channels(model, torch.randn(1, 3, 8, 8))  # doctest: +SKIP
        >>> small[0].out_channels  # doctest: +SKIP
        5
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            "torch-pruning is not installed: pip install 'wiring_lightning[pruning]'"
        ) from error
    check_weights_exist(model)
    # torch-pruning follows the graph of the backward pass, so there must be one. What is compiled
    # would be compiled again for every size.
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        small = deepcopy(with_plain_weights(model)).eval()
        learning = {name: weight.requires_grad for name, weight in small.named_parameters()}
        for weight in small.parameters():
            weight.requires_grad_(weight.is_floating_point() or weight.is_complex())
        inputs = example if isinstance(example, tuple) else (example,)
        with called_modules(small) as called:
            wanted = small(*with_own_tensors(inputs))
        if not isinstance(wanted, Tensor):
            raise ValueError(
                f"{type(model).__name__} returns a {type(wanted).__name__}, but answers can only "
                "be compared if they are one tensor: wrap the network in a module that returns one."
            )
        if wanted.numel() == 0:
            raise ValueError(
                f"{type(model).__name__} gives a tensor of shape {list(wanted.shape)} for the "
                "example, which has nothing to compare: give an example for which it has entries."
            )
        unreached, smaller, reason = unreached_layers(small, called, wanted), False, None
        try:
            smaller = _prune_all(torch_pruning.DependencyGraph(), small, inputs, called)
            same = _are_close(wanted.detach(), small(*with_own_tensors(inputs)).detach())
        except Exception as error:  # such as a reshape to the old number of channels
            same, reason = False, error
        if not same:
            raise ValueError(
                f"Without its dead channels {type(model).__name__} does not give the same tensor "
                "for the example, so they are not removed: its layers depend on each other in a "
                "way that is not seen."
            ) from reason
        if smaller and unreached:
            warnings.warn(
                f"{type(model).__name__} has layers that the example does not reach, such as "
                f"{unreached[0]}: they stay as they are and may read channels that were removed, "
                "so use the smaller network for inference only.",
                stacklevel=2,
            )
        for name, weight in small.named_parameters():
            weight.requires_grad_(learning[name])
            weight.grad = None
    return small


class _Part(NamedTuple):
    """A layer, or a parameter of the network itself, that has channels of a group.

    Args:
        module: the layer.
        reads: whether the channels are inputs of it; otherwise it gives them.
        channels: `[k]` their numbers in the layer.
        in_group: `[k]` their numbers in the group.
    """

    module: nn.Module
    reads: bool
    channels: Tensor
    in_group: Tensor


def _prune_all(
    graph: Any, small: nn.Module, inputs: tuple[Any, ...], called: set[nn.Module]
) -> bool:
    """Remove dead channels, in place, until there are none; whether there were any."""
    graph.build_dependency(small, example_inputs=with_own_tensors(inputs))
    unknown = tied_layers(small) | _end_at_products(graph, small, called)
    smaller, changed = False, True
    while changed:
        changed = False
        for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
            changed |= _prune(group, unknown, lambda: small(*with_own_tensors(inputs)).detach())
        smaller |= changed
    return smaller


def _end_at_products(graph: Any, small: nn.Module, called: set[nn.Module]) -> set[nn.Module]:
    """Let groups of channels end where a function multiplies matrices, and give these places.

    torch-pruning knows the products of layers that are called. Others, such as those of weights and
    of batches in the attention of torchvision's Swin, count there as operators that compute each
    channel alone. Where they change the number of channels, a group would grow without an end.
    """
    weights = {
        layer.weight
        for layer in small.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in called
    }
    ends = set[nn.Module]()
    for module, node in graph.module2node.items():
        batched = type(node.grad_fn).__name__.startswith(("BmmBackward", "BaddbmmBackward"))
        if module not in called and (batched or not weights.isdisjoint(factors(node.grad_fn))):
            node.dependencies.clear()
            ends.add(module)
    return ends


def _prune(group: Any, unknown: set[nn.Module], answer: Callable[[], Tensor]) -> bool:
    """Remove the dead channels of layers that share them; whether there were any."""
    dead = _dead_channels(group, unknown)
    if dead is None:
        return False
    if dead.all():
        dead[0] = False  # a layer without channels cannot be computed
    if not dead.any() or _matter(group, dead, answer):
        return False
    group.prune(dead.nonzero().flatten().tolist())
    return True


def _matter(group: Any, dead: Tensor, answer: Callable[[], Tensor]) -> bool:
    """Whether the answer changes with what is written into channels that no weight reads.

    It must not change at all: zero times any number is zero. Both answers are computed with hooks,
    since a network may compute in another order where it has some.
    """
    answers = []
    for size in (0, _NOISE):
        generator = torch.Generator("cpu").manual_seed(0)
        with ExitStack() as hooks:
            for part in _parts(group):
                if isinstance(part.module, nn.Conv2d | nn.Linear) and not part.reads:
                    hook = _noise_in(part.channels[dead[part.in_group]], size, generator)
                    hooks.enter_context(part.module.register_forward_hook(hook))
            answers.append(answer())
    return not torch.equal(*answers)


def _noise_in(
    channels: Tensor, size: float, generator: torch.Generator
) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that writes random numbers into some channels of what a layer returns."""

    def hook(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        place = -1 if isinstance(layer, nn.Linear) else -3
        shape = [*output.shape]
        shape[place] = len(channels)
        noise = torch.randn(shape, generator=generator, device="cpu").to(output)
        noise *= size * output.detach().abs().max().clamp_min(1)
        return output.index_copy(place, channels.to(output.device), noise)

    return hook


def _dead_channels(group: Any, unknown: set[nn.Module]) -> Tensor | None:
    """`[channels]` which channels of a group nobody reads; `None` if that cannot be said.

    Args:
        group: what shares the channels.
        unknown: layers and operators whose channels cannot be removed.
    """
    unread = torch.ones(len(group[0].idxs), dtype=torch.bool, device="cpu")
    readers = 0
    for module, reads, channels, in_group in _parts(group):
        if module in unknown or isinstance(module, nn.Parameter):  # one that is in no layer
            return None
        if isinstance(module, nn.Conv2d | nn.Linear):
            if getattr(module, "groups", 1) != 1:
                return None
            if reads:
                weights = module.weight.transpose(0, 1)
                if len(weights) <= int(channels.max()):  # as after `nn.PixelShuffle`
                    return None
                weights = weights[channels].flatten(1)
                unread[in_group[weights.cpu().any(1)]] = False
                readers += 1
        elif isinstance(module, MIXING_NORMS):
            return None  # also without parameters: its number of groups may not fit fewer channels
        elif any(True for _ in module.parameters()) and not isinstance(module, _CHANNELWISE):
            return None
    return unread if readers else None  # the network's own answer is read by nobody in it


def _parts(group: Any) -> Iterator[_Part]:
    """What has channels of a group of torch-pruning's."""
    for item in group:
        yield _Part(
            module=item.dep.target.module,
            reads="in_channels" in item.dep.handler.__name__,
            channels=torch.tensor(item.idxs, device="cpu"),
            in_group=torch.tensor(item.root_idxs, device="cpu"),
        )


def _are_close(wanted: Tensor, found: Tensor) -> bool:
    """Whether two answers differ only by the rounding of sums with fewer terms."""
    eps = torch.finfo(wanted.dtype).eps if wanted.is_floating_point() else 0.0
    allowed = max(_TOLERANCE, 8 * eps) * largest_size(wanted)  # half precision rounds more
    return wanted.shape == found.shape and largest_difference(wanted, found) <= allowed
