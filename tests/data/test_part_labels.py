import pytest
import torch
from PIL import Image

from tests.cli.commands import BASE, wiring, write
from tests.data.batches import assert_same_batches, fake_trainer, interleaved
from wiring_lightning.data import PartLabels

SIZE = 250
TRAIN = [("Ann_Lee", 1), ("Ann_Lee", 2), ("Bo", 1), ("Cy_D_Ek", 12), ("Di", 1)]
VAL, TEST = [("Bo", 2), ("Ed", 3)], [("Flo", 1), ("Flo", 2), ("Gus", 1)]
LISTS = {"parts_train.txt": TRAIN, "parts_validation.txt": VAL, "parts_test.txt": TEST}
BLUE, GREEN, RED = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def ramp():
    """Grey levels that grow from left to right, so that a mirrored image tells."""
    return (torch.arange(SIZE) / 2 + 60).to(torch.uint8).expand(SIZE, SIZE)


def colors():
    """Hair above and background below on the left, skin on the right."""
    picture = torch.empty(SIZE, SIZE, 3, dtype=torch.uint8)
    picture[:100, :70] = torch.tensor(RED, dtype=torch.uint8)
    picture[100:, :70] = torch.tensor(BLUE, dtype=torch.uint8)
    picture[:, 70:] = torch.tensor(GREEN, dtype=torch.uint8)
    return picture


def classes():
    """What `colors` means, with the frame around it."""
    mask = torch.full((256, 256), 255)
    mask[3:103, 3:73], mask[103:253, 3:73], mask[3:253, 73:253] = 2, 0, 1
    return mask


def write_release(root):
    for number, (name, samples) in enumerate(LISTS.items()):
        for person, index in samples:
            stem = f"{person}_{index:04}"
            image = root / "lfw_funneled" / person / f"{stem}.jpg"
            mask = root / "parts_lfw_funneled_gt_images" / f"{stem}.ppm"
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            grey = ramp() + 10 * number  # tells the splits apart
            Image.fromarray(grey.numpy()).convert("RGB").save(image, quality=95)
            Image.fromarray(colors().numpy()).save(mask)
        lines = [f"{person} {index}" for person, index in samples]
        (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("part_labels"))


def make(root, **options):
    data = PartLabels(root=str(root), **{"batch_size": 2, **options})
    data.setup("fit")
    return data


def batches_of(loader, epoch=0):
    loader.set_epoch(epoch)
    return list(loader)


def test_the_lists_decide_the_splits(release):
    data = make(release)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for number, (loader, samples) in enumerate(zip(loaders, LISTS.values(), strict=True)):
        images, masks = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert images.shape == (len(samples), *data.image_shape)
        assert masks.shape == (len(samples), 256, 256)
        assert masks.dtype == torch.int64
        # Mirroring does not change the mean.
        expected = (ramp().float().mean() + 10 * number) / 255 * 2 - 1
        torch.testing.assert_close(images[:, :, 3:253, 3:253].mean(), expected, atol=5e-3, rtol=0)
    assert data.num_classes == len(data.class_names) == 3
    assert str(data) == (
        "PartLabels: 5 training, 2 validation and 3 test images of shape (3, 256, 256)"
    )


def test_a_black_frame_without_classes_surrounds_the_image(release):
    ((images, masks),) = make(release).val_dataloader()
    bytes_ = (images + 1) * 127.5
    assert (bytes_[:, :, 3:253, 3:253] - (ramp().float() + 10)).abs().max() <= 3  # JPEG is lossy
    frame = torch.ones(256, 256, dtype=torch.bool)
    frame[3:253, 3:253] = False
    assert (images[:, :, frame] == -1).all()
    assert torch.equal(masks, classes().expand(2, -1, -1))


def test_training_mirrors_image_and_mask_together(release):
    loader = make(release).train_dataloader()
    mirrored = 0
    for epoch in range(8):
        for images, masks in batches_of(loader, epoch):
            for image, mask in zip(images, masks, strict=True):
                flipped = bool(image[:, :, 20].mean() > image[:, :, 230].mean())
                assert torch.equal(mask, classes().flip(1) if flipped else classes())
                mirrored += flipped
    assert 10 < mirrored < 30  # of 40


def test_without_augmentation_nothing_is_mirrored(release):
    for _, masks in make(release, augment=False).train_dataloader():
        assert torch.equal(masks, classes().expand_as(masks))


def test_two_processes_are_one_with_twice_the_batch(release):
    def batches(rank, world_size):
        data = make(release, batch_size=4 // world_size)
        data.trainer = fake_trainer(rank, world_size, epoch=3)
        return batches_of(data.train_dataloader(), 3)

    assert_same_batches(batches(0, 1)[:1], interleaved(batches(0, 2), batches(1, 2)))


def test_continues_inside_an_epoch(release):
    whole = batches_of(make(release, seed=4).train_dataloader(), 1)
    first = make(release, seed=4)
    loader = first.train_dataloader()
    loader.set_epoch(1)
    next(iter(loader))
    second = make(release, seed=4)
    second.load_state_dict(first.state_dict())
    assert_same_batches(batches_of(second.train_dataloader(), 1), whole[1:])


def put(content):
    def change(path):
        path.write_bytes(content)

    return change


def recolor(path):
    picture = colors()
    picture[7, 9] = torch.tensor([0, 0, 254], dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(path)


def shrink(path):
    Image.new("RGB", (200, 250), BLUE).save(path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


JPG, PPM = "lfw_funneled/Ed/Ed_0003.jpg", "parts_lfw_funneled_gt_images/Ed_0003.ppm"


@pytest.mark.parametrize(
    ("path", "change", "error", "expected"),
    [
        ("lfw_funneled", None, FileNotFoundError, "no folder 'lfw_funneled'"),
        ("parts_lfw_funneled_gt_images", None, FileNotFoundError, "--data.root"),
        ("parts_test.txt", None, FileNotFoundError, "parts_test.txt' is missing"),
        (JPG, None, FileNotFoundError, f"{JPG}' is missing, although a list names it"),
        (PPM, None, FileNotFoundError, f"{PPM}' is missing, although a list names it"),
        (JPG, put(b"no image"), RuntimeError, f"{JPG}' cannot be read"),
        (PPM, truncate, RuntimeError, f"{PPM}' cannot be read"),
        (PPM, recolor, RuntimeError, f"{PPM}' has the colour (0, 0, 254) in row 7, column 9"),
        (JPG, shrink, RuntimeError, f"{JPG}' has 200x250 pixels, not 250x250"),
        (PPM, shrink, RuntimeError, f"{PPM}' has 200x250 pixels, not 250x250"),
        ("parts_train.txt", put(b"\n"), RuntimeError, "parts_train.txt' is empty"),
        ("parts_train.txt", put(b"Bo 1\n\nBo.jpg\n"), RuntimeError, "line 3 of"),
        ("parts_train.txt", put(b"Bo one\n"), RuntimeError, "'Bo one', where a person's name"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, path, change, error, expected):
    write_release(tmp_path)
    if change is None:
        (tmp_path / path).rename(tmp_path / "elsewhere")
    else:
        change(tmp_path / path)
    with pytest.raises(error) as caught:
        make(tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_bad_arguments(release):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make(release, batch_size=0)


def test_the_command_line_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what the command leaves behind
    config = write({**BASE, "data": {"class_path": "PartLabels"}}, tmp_path / "faces.yaml")
    run = wiring("fit", "--config", config, "--data.root", str(tmp_path / "nowhere"))
    assert run.code == 2
    said = run.err.splitlines()[-1]
    assert said.startswith(f"wiring: error: PartLabels is not in '{tmp_path / 'nowhere'}'")
