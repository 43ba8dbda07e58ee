import os
import warnings

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from tests.cli.commands import BASE, wiring, write
from tests.data.batches import assert_same_batches, fake_trainer, interleaved
from tests.data.image_folders import pixels_of, write_image
from wiring_lightning.data import ImageMaskFolder

CLASSES = ["road", "sky", "tree"]
HEIGHT, WIDTH = 12, 20
PALETTE = [(10, 0, 0), (0, 10, 0), (0, 0, 200)]


def mask_of(name, size=(HEIGHT, WIDTH)):
    """The class of each pixel, 0 to 2, which follows from the red of the image of that name."""
    return (pixels_of(f"{name}.png", size)[0] // 86).to(torch.uint8)


def write_pair(root, name, size=(HEIGHT, WIDTH)):
    write_image(root / "images" / f"{name}.png", size)
    path = root / "masks" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_of(path.stem, size).numpy()).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pairs of 12x20 pixels."""
    root = tmp_path_factory.mktemp("pairs")
    for number in range(20):
        write_pair(root, f"{number:02}")
    return root


def make(root, **options):
    options = {"class_names": CLASSES, "image_size": (HEIGHT, WIDTH), "batch_size": 4, **options}
    data = ImageMaskFolder(root=str(root), **options)
    data.setup("fit")
    return data


def gather(loader):
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def names_in(loader):
    """Which of the twenty images a loader yields, in its order, mirrored or not."""
    known = {f"{n:02}": pixels_of(f"{n:02}.png", (HEIGHT, WIDTH)) for n in range(20)}
    found = []
    for image in ((gather(loader)[0] + 1) * 127.5).round():
        same = [
            name
            for name, pixels in known.items()
            if torch.equal(image, pixels.float()) or torch.equal(image, pixels.flip(2).float())
        ]
        found += same
        assert len(same) == 1
    return found


def test_yields_images_with_the_masks_of_the_same_name(folder):
    data = make(folder)
    assert (data.num_classes, data.image_shape) == (3, (3, HEIGHT, WIDTH))
    loader = data.test_dataloader()
    images, masks = gather(loader)
    assert (images.dtype, masks.dtype) == (torch.float32, torch.int64)
    names = names_in(loader)
    assert torch.equal(masks, torch.stack([mask_of(name) for name in names]).long())
    assert str(data) == (
        "ImageMaskFolder: 14 training, 2 validation and 4 test images of shape (3, 12, 20)"
    )


def test_training_mirrors_image_and_mask_together(folder):
    loader = make(folder).train_dataloader()
    mirrored = 0
    for epoch in range(4):
        loader.set_epoch(epoch)
        for images, masks in loader:
            red = ((images[:, 0] + 1) * 127.5).round()
            assert torch.equal(masks, (red // 86).long())
            mirrored += sum(
                not any(torch.equal(mask, mask_of(f"{n:02}").long()) for n in range(20))
                for mask in masks
            )
    assert 15 < mirrored < 41  # of 56
    plain = make(folder, augment=False).train_dataloader()
    assert all(
        any(torch.equal(mask, mask_of(f"{n:02}").long()) for n in range(20))
        for mask in gather(plain)[1]
    )


def test_the_splits_follow_their_own_seed(folder):
    def splits(**options):
        data = make(folder, **options)
        loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
        return [set(names_in(loader)) for loader in loaders]

    first = splits(seed=1)
    assert [len(split) for split in first] == [14, 2, 4]
    assert len(set.union(*first)) == 20
    assert first == splits(seed=2)
    assert first != splits(split_seed=1)


@pytest.mark.parametrize(("count", "parts"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1))])
def test_each_share_is_at_least_one_image(tmp_path, count, parts):
    for number in range(count):
        write_pair(tmp_path, f"{number:02}")
    data = make(tmp_path)
    assert tuple(len(split[0]) for split in data._ready()) == parts
    assert len(data.val_dataloader()) == 1
    if count == 3:
        write_pair(tmp_path / "few", "0")
        write_pair(tmp_path / "few", "1")
        with pytest.raises(ValueError, match="of 2 images leave 0 for training and 1 for testing"):
            make(tmp_path / "few")


def test_no_validation(folder):
    data = make(folder, val_share=0.0)
    assert data.val_dataloader() == []
    assert len(gather(data.train_dataloader())[0]) == 16


def test_lists_name_the_images_of_each_split(tmp_path):
    for name in ("a/one", "a/two", "b/one", "b.v2", "unused"):
        write_pair(tmp_path, name)
    (tmp_path / "images/unused.png").rename(tmp_path / "images/alone.png")
    (tmp_path / "train.txt").write_text("b/one\n\na/two.png \n")
    (tmp_path / "val.txt").write_text("a/one")
    (tmp_path / "test.txt").write_text("b.v2\n")
    options = {"train_list": "train.txt", "test_list": "test.txt", "augment": False}
    data = make(tmp_path, val_list="val.txt", **options)
    for loader, names in (
        (data.train_dataloader(), ("one", "two")),
        (data.val_dataloader(), ("one",)),
        (data.test_dataloader(), ("b.v2",)),
    ):
        expected = torch.stack([mask_of(name) for name in names]).long()
        assert torch.equal(loader.labels.long(), expected)
    assert make(tmp_path, **options).val_dataloader() == []


def test_images_are_blended_and_masks_are_not(tmp_path):
    for number in range(5):
        write_pair(tmp_path, f"{number:02}", (18, 35))
    data = make(tmp_path, image_size=(7, 10), augment=False, batch_size=9)
    loader = data.train_dataloader()
    images, masks = gather(loader)
    numbers = range(5)
    whole = [pixels_of(f"{n:02}.png", (18, 35)).float() for n in numbers]
    blended = interpolate(torch.stack(whole), (7, 10), mode="bilinear", antialias=True)
    rows = [int((row + 0.5) * 18 / 7) for row in range(7)]
    columns = [int((column + 0.5) * 35 / 10) for column in range(10)]
    nearest = [mask_of(f"{n:02}", (18, 35))[rows][:, columns].long() for n in numbers]
    for image, mask in zip((images + 1) * 127.5, masks, strict=True):
        (index,) = [n for n in numbers if (image - blended[n]).abs().max() <= 2]
        assert torch.equal(mask, nearest[index])


def write_masks(root, convert, count=5):
    for number in range(count):
        write_image(root / "images" / f"{number:02}.jpg", (HEIGHT, WIDTH))
        path = root / "masks" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        convert(mask_of(f"{number:02}")).save(path)


def indexed(mask):
    image = Image.fromarray(mask.numpy())
    image.putpalette([200, 3, 5] * 256)
    assert image.mode == "P"
    return image


def coloured(mask):
    picture = torch.tensor(PALETTE, dtype=torch.uint8)[mask.long()]
    picture[0, 0] = torch.tensor([224, 224, 192], dtype=torch.uint8)
    return Image.fromarray(picture.numpy())


@pytest.mark.parametrize(
    ("convert", "options"),
    [
        (lambda mask: Image.fromarray(mask.numpy()), {}),
        (lambda mask: Image.fromarray(mask.numpy().astype("uint16")), {}),
        (indexed, {}),
        (coloured, {"palette": PALETTE, "ignored_color": (224, 224, 192)}),
        (
            lambda mask: coloured(mask).convert("P", palette=Image.Palette.ADAPTIVE),
            {"palette": PALETTE, "ignored_color": (224, 224, 192)},
        ),
    ],
    ids=["grey", "16 bits", "indexed", "coloured", "coloured with a table"],
)
def test_masks_come_in_several_kinds(tmp_path, convert, options):
    write_masks(tmp_path, convert)
    data = make(tmp_path, val_share=0, test_share=0.2, augment=False, **options)
    loaders = data.train_dataloader(), data.test_dataloader()
    found = torch.cat([gather(loader)[1] for loader in loaders])
    expected = torch.stack([mask_of(f"{n:02}") for n in range(5)]).long()
    if options:
        expected[:, 0, 0] = 255
    assert sorted(found.tolist()) == sorted(expected.tolist())


def test_black_and_white_masks_have_two_classes(tmp_path):
    write_masks(tmp_path, lambda mask: Image.fromarray((mask > 0).numpy()))
    data = make(tmp_path, class_names=["off", "on"], augment=False)
    assert set(data.train_dataloader().labels.unique().tolist()) == {0, 1}


def test_255_means_no_class(tmp_path):
    def white(mask):
        return Image.fromarray(torch.where(mask > 1, 255, mask).numpy())

    write_masks(tmp_path, white)
    # Easily a mistake: masks of two classes that are black and white.
    with pytest.warns(UserWarning, match="holds the class 'tree': .* white masks need a palette"):
        data = make(tmp_path)
    assert data.train_dataloader().labels.unique().tolist() == [0, 1, 255]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path, class_names=["road", "sky"])


def test_two_processes_are_one_with_twice_the_batch(folder):
    def batches(rank, world_size):
        data = make(folder, batch_size=6 // world_size)
        data.trainer = fake_trainer(rank, world_size, epoch=3)
        loader = data.train_dataloader()
        loader.set_epoch(3)
        return list(loader)

    together = interleaved(batches(0, 2), batches(1, 2))
    assert_same_batches(batches(0, 1), together)


def test_continues_inside_an_epoch(folder):
    def batches(data):
        loader = data.train_dataloader()
        loader.set_epoch(2)
        return iter(loader)

    first, second = make(folder), make(folder)
    seen = batches(first)
    next(seen), next(seen)
    second.load_state_dict(first.state_dict())
    assert_same_batches(batches(second), seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (0, 4)}, "image_size must be at least 1"),
        ({"class_names": ["one"]}, "class_names must hold 2 to 255 names, got 1"),
        ({"class_names": ["a", "b", "a"]}, "class_names must differ"),
        ({"palette": PALETTE[:2]}, "palette must hold 3 colours as class_names does, got 2"),
        ({"palette": [*PALETTE[:2], (0, 0, 256)]}, "three numbers from 0 to 255"),
        ({"palette": [*PALETTE[:2], PALETTE[0]]}, "must differ"),
        ({"palette": PALETTE, "ignored_color": PALETTE[0]}, "must differ"),
        ({"ignored_color": (1, 2, 3)}, "ignored_color needs a palette"),
        ({"train_list": "train.txt"}, "Lists come together"),
        ({"val_list": "val.txt"}, "Lists come together"),
        ({"val_share": -0.1}, "val_share must be at least 0 and below 1, got -0.1"),
        ({"test_share": 1.0}, "test_share must be at least 0 and below 1, got 1.0"),
        ({"test_share": 0.0}, "leave 18 for training and 0 for testing"),
        ({"val_share": 0.8}, "leave 0 for training and 4 for testing"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_refuses_bad_arguments(folder, options, message):
    with pytest.raises(ValueError, match=message):
        make(folder, **options)


def out_of_range(path):
    mask = mask_of("02")
    mask[3, 4] = 7
    Image.fromarray(mask.numpy()).save(path)


def in_color(path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def other_size(path):
    Image.new("L", (WIDTH, HEIGHT + 1)).save(path)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("path", "change", "error", "expected"),
    [
        ("images", None, FileNotFoundError, "There is no folder '{root}/images'"),
        ("masks", None, FileNotFoundError, "There is no folder '{root}/masks'"),
        ("masks/02.png", None, FileNotFoundError, "'{root}/images/02.png' has no partner"),
        ("images/02.png", None, FileNotFoundError, "'{root}/masks/02.png' has no partner"),
        ("masks/02.png", out_of_range, RuntimeError, "the number 7 in row 3, column 4"),
        ("masks/02.png", in_color, RuntimeError, "'{root}/masks/02.png' has colours (mode RGB)"),
        ("masks/02.png", other_size, RuntimeError, "has 20x12 pixels, its mask '{root}/masks/02"),
        ("masks/02.png", truncated, RuntimeError, "'{root}/masks/02.png' cannot be read"),
        ("images/02.png", truncated, RuntimeError, "'{root}/images/02.png' cannot be read"),
        ("masks/02.tif", in_color, RuntimeError, "differ in their endings only"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, path, change, error, expected):
    for number in range(5):
        write_pair(tmp_path, f"{number:02}")
    if change is None:
        (tmp_path / path).rename(tmp_path / "elsewhere")
    else:
        change(tmp_path / path)
    with pytest.raises(error) as caught:
        make(tmp_path)
    assert expected.format(root=tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "error", "expected"),
    [
        ("00\n01", None, FileNotFoundError, "There is no list '{root}/test.txt'"),
        ("00\n01", "\n", RuntimeError, "The list '{root}/test.txt' is empty"),
        ("00\n77", "01", FileNotFoundError, "'{root}/train.txt' names '77', but that image"),
        ("00\n01", "01", RuntimeError, "'01' is in '{root}/train.txt' and again in"),
    ],
)
def test_wrong_lists_are_refused(tmp_path, train, test, error, expected):
    for number in range(3):
        write_pair(tmp_path, f"{number:02}")
    for name, text in (("train.txt", train), ("test.txt", test)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(error) as caught:
        make(tmp_path, train_list="train.txt", test_list="test.txt")
    assert expected.format(root=tmp_path) in str(caught.value)


def test_one_list_for_training_and_testing_is_refused(tmp_path):
    write_pair(tmp_path, "00")
    (tmp_path / "all.txt").write_text("00")
    with pytest.raises(RuntimeError, match="name each image once"):
        make(tmp_path, train_list="all.txt", test_list="all.txt")


def test_the_command_line_knows_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restores what the command leaves behind
    data = {"class_names": ["a", "b"], "image_size": [64, 48], "palette": [[0, 0, 0], [9, 9, 9]]}
    config = {**BASE, "data": {"class_path": "ImageMaskFolder", "init_args": data}}
    run = wiring("fit", "--config", write(config, tmp_path / "masks.yaml"))
    assert run.code == 2
    assert "There is no folder 'data/image_masks/images'" in run.err.splitlines()[-1]


@pytest.mark.skipif(
    "WIRING_FACE_PARTS_ROOT" not in os.environ,
    reason="set WIRING_FACE_PARTS_ROOT to a folder with `images` and `masks` of faces, numbered "
    "0 background, 1 skin, 2 hair, 3 eyes, 4 nose, 5 mouth",
)
def test_real_faces():
    names = ["background", "skin", "hair", "eyes", "nose", "mouth"]
    data = make(os.environ["WIRING_FACE_PARTS_ROOT"], class_names=names, image_size=(128, 96))
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader in loaders:
        images, masks = gather(loader)
        assert images.shape[1:] == data.image_shape
        assert images.min() >= -1
        assert images.max() <= 1
        shares = masks.flatten().bincount(minlength=6) / masks.numel()
        assert shares.argmin() in (3, 4, 5)
        assert shares[1] > shares[3:].sum()  # more skin than eyes, nose and mouth
        # A face is in the middle: hardly any skin in the outermost columns.
        assert (masks[:, :, [0, -1]] == 1).float().mean() < shares[1]
