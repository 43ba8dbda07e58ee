import pytest
import torch

from wiring_lightning.data import Normalizer, channel_mean_std, pixel_mean


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (40, 3, 4, 5), generator=generator).to(torch.uint8)


def test_pixel_mean_is_the_mean_image(images):
    mean = pixel_mean(images)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, (images.double() / 255).mean(0).float())


def test_pixel_mean_does_not_depend_on_the_order(images):
    order = torch.randperm(len(images))
    assert torch.equal(pixel_mean(images), pixel_mean(images[order]))


def test_channel_statistics_are_those_of_the_floats(images):
    mean, std = channel_mean_std(images)
    floats = images.double() / 255
    torch.testing.assert_close(mean.flatten(), floats.mean((0, 2, 3)).float())
    expected = floats.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(std.flatten(), expected)


def test_pixel_mean_only_centres(images):
    result = Normalizer.fit(images, "pixel_mean")(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.mean(0), torch.zeros(3, 4, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(result[0] - result[1], (images[0].float() - images[1].float()) / 255)


def test_channel_mean_std_standardises(images):
    result = Normalizer.fit(images, "channel_mean_std")(images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(3))


def test_one_coloured_channel_becomes_zero():
    images = torch.full((2, 1, 2, 2), 7, dtype=torch.uint8)
    result = Normalizer.fit(images, "channel_mean_std")(images)
    torch.testing.assert_close(result, torch.zeros(2, 1, 2, 2), atol=0.1, rtol=0)


def test_symmetric_maps_black_to_minus_one_and_white_to_one():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    result = Normalizer.fit(images, "symmetric")(images)
    torch.testing.assert_close(result.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_unknown_kind_is_refused(images):
    with pytest.raises(ValueError, match="'channel_mean_std' or 'symmetric', got 'none'"):
        Normalizer.fit(images, "none")


@pytest.mark.parametrize("kind", ["pixel_mean", "channel_mean_std", "symmetric"])
def test_moves_to_a_device(images, kind):
    moved = Normalizer.fit(images, kind).to(torch.device("meta"))
    assert moved(images.to("meta")).device.type == "meta"


@pytest.mark.parametrize("kind", ["pixel_mean", "channel_mean_std", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_the_images_of_the_caller_stay_as_they_are(images, kind, dtype):
    given = images.to(dtype)
    result = Normalizer.fit(images, kind)(given)
    assert torch.equal(given, images.to(dtype))
    torch.testing.assert_close(result, Normalizer.fit(images, kind)(images))
