"""Under `torch.func`, and with tangents, every network computes with torch's operators."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.export.networks import NETWORKS, images_for, made
from tests.methods import Method, named, over
from wiring_lightning.backbones import NeuralGraph

_ONE_SOURCE = [
    replace(named(name), name=f"{name}-k1", arguments=named(name).arguments | {"fan_in": 1})
    for name in ("resnext-learned", "resnet-learned", "densenet-learned")
]
_CHECKPOINTED = [
    replace(named(name), name=f"{name}-again", arguments=arguments | {"checkpointing": True})
    for name in ("sparsenet", "sparse-resnet")
    for arguments in [named(name).arguments]
]
_METHODS = [one for one in NETWORKS if one.backbone.__module__.startswith("wiring_lightning.")]
_METHODS += _ONE_SOURCE + _CHECKPOINTED
# A solver looks at its data, which torch.vmap does not allow.
_WITHOUT_SOLVER = [
    one for one in _METHODS if one.arguments.get("dynamics") != "continuous"
]  # fmt: skip


def _network(method: Method, form: str) -> nn.Module:
    """A network in float64, in training or evaluation mode, or its compact form."""
    network = made(method).double().train(form == "training")
    return network.compact() if form == "compact" else network


def _seeded(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network as a function: a fabric draws the same edges in every call."""

    def answer(images: Tensor) -> Tensor:
        torch.manual_seed(3)
        logits: Tensor = network(images)
        return logits

    return answer


@pytest.mark.parametrize("form", ["training", "evaluation", "compact"])
@over(_WITHOUT_SOLVER)
def test_derivatives_forwards_are_those_of_small_steps(method: Method, form: str) -> None:
    answer, images = _seeded(_network(method, form)), images_for(method).double()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).double()
    with torch.autograd.forward_ad.dual_level():
        logits = answer(torch.autograd.forward_ad.make_dual(images, direction))
        found = torch.autograd.forward_ad.unpack_dual(logits).tangent
    step = 1e-7  # few ReLUs switch within it
    with torch.no_grad():
        ends = [answer(images + sign * step * direction) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    rounding = 1e-9  # of logits, divided by the step
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max() + rounding


@pytest.mark.parametrize("form", ["evaluation", "compact"])
@over(_WITHOUT_SOLVER)
def test_gradients_of_a_function_are_those_of_backward(method: Method, form: str) -> None:
    network, images = _network(method, form), images_for(method).double()
    weights = {name: one for name, one in network.named_parameters() if one.requires_grad}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(network, weights, (images,))
        return logits.square().mean()

    found = torch.func.grad(loss)({name: one.detach() for name, one in weights.items()})
    loss(weights).backward()
    for name, weight in weights.items():
        own = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(found[name], own, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("rectify_states", [False, True])
def test_derivatives_through_a_solver_are_those_of_backward(rectify_states: bool) -> None:
    """The lengths of its steps are no part of the derivatives, which would grow without a bound."""
    torch.manual_seed(0)
    network = NeuralGraph(
        "continuous", num_classes=4, nodes=12, inputs=4, outputs=5, edges=40, image_size=16,
        tolerance=1e-7, rectify_states=rectify_states,
    ).double().eval()  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        logits: Tensor = torch.func.functional_call(network, weights, (images,))
        return logits.sin().sum()

    loss(dict(network.named_parameters())).backward()
    weights = {name: one.detach() for name, one in network.named_parameters()}
    own = [torch.zeros_like(one) if one.grad is None else one.grad for one in network.parameters()]
    backwards = torch.cat([grad.flatten() for grad in own])
    found = torch.cat([grad.flatten() for grad in torch.func.grad(loss)(weights).values()])
    # Steps of other lengths cross the kinks of ReLUs elsewhere, and rectify other states.
    share = 0.2 if rectify_states else 0.01
    assert (found - backwards).norm() < share * backwards.norm()
    directions = dict(zip(weights, own, strict=True))
    _, forwards = torch.func.jvp(loss, (weights,), (directions,))
    assert float(forwards) == pytest.approx(float(found @ backwards), rel=1e-6)


@pytest.mark.parametrize("form", ["evaluation", "compact"])
@over(_WITHOUT_SOLVER)
def test_images_one_by_one_are_those_of_a_batch(method: Method, form: str) -> None:
    network, images = _network(method, form), images_for(method).double()
    found = torch.vmap(lambda image: network(image[None])[0])(images)
    torch.testing.assert_close(found, network(images))
    jacobians = torch.vmap(torch.func.jacrev(lambda image: network(image[None])[0]))(images)
    assert jacobians.shape == (*found.shape, *images.shape[1:])
    summed = torch.autograd.functional.jacobian(lambda batch: network(batch).sum(0), images)
    torch.testing.assert_close(jacobians.movedim(0, found.dim() - 1), summed)
