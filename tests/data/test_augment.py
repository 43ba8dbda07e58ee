import pytest
import torch

from wiring_lightning.data import CropFlip, Mirror, random_crop_flip


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


@pytest.mark.parametrize("margin", [0, 1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_a_smaller_window_is_a_slice(padding, margin):
    images = torch.randn(5, 2, 8, 9)
    offsets, flips = CropFlip(padding, margin=margin).draw(5, torch.Generator().manual_seed(1))
    result = CropFlip(padding, margin=margin)(images, offsets, flips)
    frame = torch.zeros(5, 2, 8 + 2 * padding, 9 + 2 * padding)
    frame[:, :, padding : padding + 8, padding : padding + 9] = images
    for b, (row, column) in enumerate(offsets.tolist()):
        window = frame[b, :, row : row + 8 - 2 * margin, column : column + 9 - 2 * margin]
        assert torch.equal(result[b], window.flip(2) if flips[b] else window)
    assert result.is_contiguous()


def test_a_smaller_window_reaches_every_place():
    offsets, _ = CropFlip(padding=1, margin=2).draw(4000, torch.Generator().manual_seed(0))
    for axis in range(2):
        counts = torch.bincount(offsets[:, axis])
        assert counts.shape == (7,)
        assert counts.min() > 450


@pytest.mark.parametrize(("padding", "margin"), [(0, 2), (1, 2), (2, 1)])
def test_the_centred_window_is_the_middle_of_the_image(padding, margin):
    images = torch.randn(3, 1, 8, 8)
    centred = CropFlip(padding, margin=margin).centred()
    result = centred(images, *centred.draw(3, torch.Generator()))
    assert torch.equal(result, images[:, :, margin:-margin, margin:-margin])


def test_negative_widths_are_refused():
    with pytest.raises(ValueError, match="padding must be at least 0 pixels, got -1"):
        CropFlip(padding=-1)
    with pytest.raises(ValueError, match="margin must be at least 0 pixels, got -2"):
        CropFlip(padding=0, margin=-2)


def test_mirror_turns_images_and_masks_alike():
    images, masks = torch.rand(50, 3, 4, 5), torch.rand(50, 4, 5)
    (flips,) = Mirror().draw(50, torch.Generator().manual_seed(0))
    assert 10 < int(flips.sum()) < 40
    for batch in (images, masks):
        for one, flip, result in zip(batch, flips, Mirror()(batch, flips), strict=True):
            assert torch.equal(result, one.flip(-1) if flip else one)
