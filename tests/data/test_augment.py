import pytest
import torch

from wiring_lightning.data import CropFlip, random_crop_flip


@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (4, 1, 2, 2), (1, 2, 3, 7)])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_equals_the_loop_over_pixels(shape, padding, crop_flip_loop):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(shape, generator=generator)
    offsets, flips = CropFlip(padding).draw(shape[0], generator)
    result = random_crop_flip(images, offsets, flips, padding)
    assert torch.equal(result, crop_flip_loop(images, offsets, flips, padding))
    assert result.is_contiguous()


def test_centre_window_without_mirror_changes_nothing():
    images = torch.randn(3, 2, 4, 4)
    offsets = torch.full((3, 2), 2)
    assert torch.equal(random_crop_flip(images, offsets, torch.zeros(3).bool(), 2), images)


def test_draw_covers_all_shifts_and_mirrors_half():
    offsets, flips = CropFlip(padding=2).draw(4000, torch.Generator().manual_seed(0))
    for axis in range(2):
        counts = torch.bincount(offsets[:, axis])
        assert counts.shape == (5,)
        assert counts.min() > 700
    assert 1850 < int(flips.sum()) < 2150


def test_turning_the_mirror_off_keeps_the_shifts():
    with_flip = CropFlip(padding=1).draw(50, torch.Generator().manual_seed(0))
    without = CropFlip(padding=1, flip=False).draw(50, torch.Generator().manual_seed(0))
    assert torch.equal(with_flip[0], without[0])
    assert not without[1].any()


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="padding must be at least 0 pixels, got -1"):
        CropFlip(padding=-1)
