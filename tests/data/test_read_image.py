"""Image files as people have them: turned, in 16 bits, damaged, or no files at all."""

import os
import random
import signal
import socket
import struct
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from wiring_lightning.data._read_image import ImageFileError, pixels, read_image

Array = NDArray[Any]

# Where the first row and the first column of the stored image belong, as the EXIF standard says.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.fixture(autouse=True)
def no_hanging() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError("a file was waited for")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def noise(*shape: int, high: int = 256, dtype: str = "uint8", seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def stored(upright: Array, orientation: int) -> Array:
    """How a camera stores an image of which the orientation says how it is held."""
    rows, columns = SIDES[orientation]
    turned = upright if rows in ("top", "bottom") else upright.swapaxes(0, 1)
    if rows in ("bottom", "right"):
        turned = turned[::-1]
    if columns in ("bottom", "right"):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def save(array: Array, path: Path, orientation: int | None = None, **options: Any) -> None:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(array).save(path, **options)


def one_sentence(path: Path, **options: Any) -> str:
    with pytest.raises(ImageFileError) as caught:
        read_image(str(path), **options)
    said = str(caught.value)
    assert f"'{path}'" in said
    assert "\n" not in said
    assert said.endswith(".")
    assert said.count(". ") == 0
    return said


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("in_color", [True, False])
def test_images_are_turned_as_they_were_held(
    tmp_path: Path, ending: str, orientation: int, in_color: bool
) -> None:
    upright = noise(5, 8, 3)
    options = {"lossless": True} if ending == "webp" else {}
    save(stored(upright, orientation), tmp_path / f"x.{ending}", orientation, **options)
    image = read_image(str(tmp_path / f"x.{ending}"), in_color)
    assert np.array_equal(np.array(image), upright)


@pytest.mark.parametrize("orientation", SIDES)
def test_photographs_are_turned_as_they_were_held(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (250, 10, 10)
    upright[8:, :8] = (10, 250, 10)
    save(stored(upright, orientation), tmp_path / "x.jpg", orientation, quality=95, subsampling=0)
    found = np.array(read_image(str(tmp_path / "x.jpg"))).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() < 40


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_masks_are_turned_without_a_change_of_their_numbers(tmp_path: Path, dtype: str) -> None:
    upright = noise(5, 8, high=2, dtype=dtype)
    for orientation in SIDES:
        save(stored(upright, orientation), tmp_path / "x.png", orientation)
        image = read_image(str(tmp_path / "x.png"), in_color=False)
        assert np.array_equal(np.array(image), upright)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_turns_nothing(tmp_path: Path, orientation: int) -> None:
    save(noise(5, 8, 3), tmp_path / "x.png", orientation)
    assert np.array_equal(np.array(read_image(str(tmp_path / "x.png"))), noise(5, 8, 3))


# 16 bits


def png16(array: Array) -> bytes:
    """A PNG file with 16 bits per channel, which Pillow writes for one channel only."""
    height, width, channels = array.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(array: Array, kind: str) -> bytes:
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def pnm16(array: Array, highest: int) -> bytes:
    height, width, channels = array.shape
    head = f"{'P5' if channels == 1 else 'P6'} {width} {height} {highest}\n"
    return head.encode() + array.astype(">u2").tobytes()


GREY, COLOR = noise(6, 7, 1, high=2**16, dtype="uint16"), noise(6, 7, 3, high=2**16, dtype="uint16")
OPACITY = noise(6, 7, 1, high=2**16, dtype="uint16", seed=1)


def on_white(array: Array) -> Array:
    return 65535 + (array - 65535.0) * (OPACITY / 65535)


SIXTEEN_BITS: dict[str, tuple[bytes, Array]] = {
    "grey PNG": (png16(GREY), GREY),
    "PNG with alpha": (png16(np.concatenate([GREY, OPACITY], 2)), on_white(GREY)),
    "colour PNG": (png16(COLOR), COLOR),
    "colour PNG with alpha": (png16(np.concatenate([COLOR, OPACITY], 2)), on_white(COLOR)),
    "grey TIFF": (saved(GREY[..., 0], "TIFF"), GREY),
    "grey TIFF of a big-endian machine": (saved(GREY[..., 0].astype(">u2"), "TIFF"), GREY),
    "grey TIFF in 32 bits": (saved(GREY[..., 0].astype("int32"), "TIFF"), GREY),
    "PGM": (pnm16(GREY, 65535), GREY),
    "PPM": (pnm16(COLOR, 65535), COLOR),
    "PGM of 10 bits": (pnm16(GREY >> 6, 1023), GREY),
}


@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_16_bits_become_8(tmp_path: Path, kind: str) -> None:
    content, numbers = SIXTEEN_BITS[kind]
    (tmp_path / "x").write_bytes(content)
    found = pixels(read_image(str(tmp_path / "x"))).permute(1, 2, 0).numpy().astype(float)
    assert found.shape == (6, 7, 3)
    assert np.abs(found - numbers / 257).max() <= (1 if numbers.dtype == np.uint16 else 2)


def test_black_and_white_stay_what_they_are(tmp_path: Path) -> None:
    save(np.array([[0, 65535, 255 * 256, 255]], np.uint16), tmp_path / "x.png")
    assert pixels(read_image(str(tmp_path / "x.png")))[1].tolist() == [[0, 255, 255, 0]]


@pytest.mark.parametrize("numbers", [[[-1, 5]], [[0, 2**16]], [[2**30, 2**31 - 1]]])
def test_more_than_16_bits_are_refused(tmp_path: Path, numbers: list[list[int]]) -> None:
    save(np.array(numbers, np.int32), tmp_path / "x.tif")
    assert "outside 0 to 65535; save it with 8 or 16 bits" in one_sentence(tmp_path / "x.tif")


@pytest.mark.parametrize("highest", [1, 199, 255])
def test_8_bits_in_32_are_refused(tmp_path: Path, highest: int) -> None:
    for name in ("x.tif", "x.pgm"):
        save(np.array([[0, highest]], np.int32), tmp_path / name)
    assert f"numbers up to {highest} in more than 16 bits, so white" in one_sentence(
        tmp_path / "x.tif"
    )
    assert pixels(read_image(str(tmp_path / "x.pgm"))).max() == 0  # which tells its white
    save(np.array([[0, 0]], np.int32), tmp_path / "black.tif")
    assert pixels(read_image(str(tmp_path / "black.tif"))).max() == 0


@pytest.mark.parametrize("kind", ["x.png", "x.tif", "x.jp2"])
def test_8_bits_in_16_are_refused(tmp_path: Path, kind: str) -> None:
    """The upper 8 bits are all black."""
    for highest in (1, 255):
        save(np.full((4, 5), highest, np.uint16), tmp_path / kind)
        said = one_sentence(tmp_path / kind)
        assert f"numbers up to {highest} in 16 bits, so white may be 255 or 65535" in said
        assert read_image(str(tmp_path / kind), in_color=False).getextrema() == (highest, highest)
    for highest in (0, 256):
        save(np.full((4, 5), highest, np.uint16), tmp_path / kind)
        assert pixels(read_image(str(tmp_path / kind))).max() == highest >> 8


@pytest.mark.parametrize("level", [0, 300, 65535])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_transparent_level_of_16_bits_is_white(
    tmp_path: Path, level: int, orientation: int
) -> None:
    numbers = np.array([[level, 512, 40000], [1024, level, 301]], np.uint16)
    path = tmp_path / "x.png"
    save(stored(numbers, orientation), path, orientation, transparency=level)
    expected = np.where(numbers == level, 255, numbers >> 8)
    assert (np.array(read_image(str(path)))[..., 0] == expected).all()
    assert (np.array(read_image(str(path), on_white=False))[..., 0] == numbers >> 8).all()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, kind) for mode in ("RGBA", "LA") for kind in ("x.png", "x.webp", "x.tif")),
        *(("P", kind) for kind in ("x.png", "x.gif")),
    ],
)
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, kind: str) -> None:
    """Black ink on no ground is not the same black as its ground."""
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[2:4, 2:4, 3] = 255
    image: Image.Image = Image.fromarray(ink)
    if mode == "P":
        image = Image.fromarray(ink[..., 3] // 255)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.info["transparency"] = 0
    else:
        image = image.convert(mode)
    image.save(tmp_path / kind)
    read = np.array(read_image(str(tmp_path / kind)))
    assert (read[..., 0] == 255 - ink[..., 3]).all()
    assert np.array(read_image(str(tmp_path / kind), on_white=False)).max() == 0


@pytest.mark.parametrize("factor", [0, 1, 255, 1e9])
def test_floating_point_numbers_are_refused(tmp_path: Path, factor: float) -> None:
    save(noise(4, 5).astype("float32") * np.float32(factor), tmp_path / "x.tif")
    said = one_sentence(tmp_path / "x.tif")
    assert "holds floating-point numbers" in said
    assert "save it with 8 or 16 bits per channel" in said


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_other_kinds_of_colours_become_red_green_and_blue(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (4, 3), "white").convert(mode).save(path)
    assert pixels(read_image(str(path))).min() == 255


@pytest.mark.parametrize("transparency", [bytes(range(256)), bytes([0, 255]), 3, None])
@pytest.mark.parametrize("orientation", [None, 6])
def test_transparent_palettes_are_read_without_a_word(
    tmp_path: Path, transparency: bytes | int | None, orientation: int | None
) -> None:
    colors, numbers = noise(256, 3), noise(7, 5, seed=1)
    image = Image.fromarray(numbers, "P")
    image.putpalette(colors.tobytes())
    exif = Image.Exif()
    if orientation is not None:
        exif[Base.Orientation] = orientation
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "x.png", exif=exif, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_image(str(tmp_path / "x.png"), on_white=False)
    expected = colors[numbers]
    np.testing.assert_array_equal(read, expected if orientation is None else np.rot90(expected, 3))


# Damage


def encoded(kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(noise(40, 30, 3))
    (image.convert("P") if kind == "GIF" else image).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "JPEG": encoded("JPEG"),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "PNG": encoded("PNG"),
    "GIF": encoded("GIF"),
    "BMP": encoded("BMP"),
    "PPM": encoded("PPM"),
    "TIFF": encoded("TIFF"),
    "packed TIFF": encoded("TIFF", compression="tiff_lzw"),
    "WebP": encoded("WEBP"),
}


def test_a_picture_of_a_kind_that_cannot_be_read_is_told_so(tmp_path: Path) -> None:
    for kind in ("x.heic", "x.SVG", "x.nef"):
        (tmp_path / kind).write_bytes(b"<svg/>")
        assert "of a kind that cannot be read; save it as PNG or JPEG" in one_sentence(
            tmp_path / kind
        )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, kind: str, share: float) -> None:
    (tmp_path / "x.jpg").write_bytes(FILES[kind][: int(share * len(FILES[kind]))])
    said = one_sentence(tmp_path / "x.jpg")
    assert "cannot be read (it is damaged or no image); replace it with an intact copy" in said


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        b"PK\x03\x04" + bytes(100),
        bytes(1000),
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"P6 999999 999999 255\n",
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert "replace it with an intact copy" in one_sentence(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FILES)
def test_random_damage_is_read_or_named(tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    path = tmp_path / "x.png"
    for _ in range(60):
        content = bytearray(FILES[kind])
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(min(300, len(content)))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            said = f"{path} is {read_image(str(path)).mode}"
        except ImageFileError as error:
            said = str(error)
        assert str(path) in said
        assert "\n" not in said


def test_too_many_pixels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(noise(40, 30), tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "it has too many pixels" in one_sentence(tmp_path / "x.png")


# No files


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device, Path.mkdir])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, linked: bool
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(Path("x.png"))
    if linked:
        Path("link.png").symlink_to("x.png")
    said = one_sentence(Path("link.png" if linked else "x.png"))
    assert "it is a folder, a pipe, a socket or a device" in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in one_sentence(tmp_path / "x.png")
    (tmp_path / "y.png").symlink_to(tmp_path / "gone.png")
    assert "No such file" in one_sentence(tmp_path / "y.png")
    (tmp_path / "z.png").symlink_to(tmp_path / "z.png")
    assert "symbolic links" in one_sentence(tmp_path / "z.png")
