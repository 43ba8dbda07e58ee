"""Weights that are computed of others, made plain in a copy."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from tests.layers import COMPUTED, changed, is_same, sums, with_computed_weights
from wiring_lightning.export.tracing import plain_network
from wiring_lightning.nn import select_channels, store_dense
from wiring_lightning.nn.folding import fold_batch_norms
from wiring_lightning.nn.plain_weights import with_plain_weights


def network(kind: str) -> nn.Module:
    """Layers whose weights are neither leaves nor up to date."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 4))
    layers = with_computed_weights(layers, kind)
    layers(torch.randn(2, 3, 5, 5)).sum().backward()
    layers.load_state_dict(changed(layers.state_dict()))
    return layers.eval()


@pytest.mark.parametrize("copied", [with_plain_weights, store_dense, plain_network])
@pytest.mark.parametrize("kind", COMPUTED)
def test_a_copy_has_plain_weights_of_the_same_values(kind, copied) -> None:
    layers, images = network(kind), torch.randn(2, 3, 5, 5)
    before = sums(layers)
    plain = copied(layers)
    assert is_same(layers, before)
    wanted = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 4))
    assert {*plain.state_dict()} == {*wanted.state_dict()}
    assert type(plain[0]) is nn.Conv2d
    assert all(weight.requires_grad for weight in plain.parameters())
    expected = layers(images)
    torch.testing.assert_close(plain(images), expected)
    torch.testing.assert_close(fold_batch_norms(plain)(images), expected, rtol=1e-5, atol=1e-5)
    layers.train()(images).sum().backward()  # it can still be trained


@pytest.mark.parametrize("kind", COMPUTED)
def test_channels_of_a_computed_weight_are_selected(kind: str) -> None:
    layer, images = network(kind)[0], torch.randn(2, 3, 5, 5)
    expected = layer(images)[:, [4, 1]]
    torch.testing.assert_close(select_channels(layer, torch.tensor([4, 1]))(images), expected)


def test_a_network_without_computed_weights_is_not_copied() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    layers[0].register_forward_pre_hook(lambda *_: None)
    assert with_plain_weights(layers) is layers


def test_training_mode_takes_no_step_of_a_norm_and_is_kept() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 5)).train()
    plain = with_plain_weights(layer)
    assert plain.training
    assert torch.equal(plain.weight, layer.eval().weight)


def test_frozen_weights_stay_frozen() -> None:
    for layer in (weight_norm(nn.Linear(3, 3)), parametrizations.weight_norm(nn.Linear(3, 3))):
        layer.requires_grad_(False)
        assert not with_plain_weights(layer).weight.requires_grad


def test_tied_tensors_keep_their_own_results() -> None:
    first, second, third = (nn.Linear(4, 4) for _ in range(3))
    third.weight = second.weight = first.weight
    prune.random_unstructured(first, "weight", amount=0.5)
    prune.random_unstructured(second, "weight", amount=0.5)
    inputs, layers = torch.randn(2, 4), nn.Sequential(first, second, third)
    torch.testing.assert_close(with_plain_weights(layers)(inputs), layers(inputs))


def test_norms_of_pruned_tensors_and_recurrent_layers() -> None:
    layer = weight_norm(nn.Linear(4, 4))
    prune.random_unstructured(layer, "weight_v", amount=1)
    inputs = torch.randn(2, 3, 4)
    torch.testing.assert_close(with_plain_weights(layer)(inputs), layer(inputs))
    recurrent = weight_norm(nn.LSTM(4, 5), "weight_hh_l0")
    torch.testing.assert_close(with_plain_weights(recurrent)(inputs)[0], recurrent(inputs)[0])


def test_a_buffer_stays_a_buffer() -> None:
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "running_var", nn.Softplus())
    plain, inputs = with_plain_weights(layer).eval(), torch.randn(4, 3)
    assert "running_var" in dict(plain.named_buffers())
    torch.testing.assert_close(plain(inputs), deepcopy(layer).eval()(inputs))
