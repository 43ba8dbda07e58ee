"""Find files, with links and accents in names.

Skips names that start with a dot, and folders that operating systems, archives or runs add. Follows
links, except into a folder that contains the link. Opens only regular files, because reading a pipe
or a device may never end. Letters with accents have two Unicode forms, composed (NFC) and
decomposed (NFD, on files from a Mac); all names are compared as NFC.
"""

import os
import warnings
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from PIL import features

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_PNM = (".ppm", ".pgm", ".pbm", ".pnm")
_AVIF = (".avif",)  # from Pillow 11.3 on
_JPEG_2000 = (".jp2", ".j2k", ".jpf", ".jpx")
_HAS_AVIF = "avif" in features.modules and features.check_module("avif")
_HAS_JPEG_2000 = features.check_codec("jpg_2000")
_CAMERA_RAW = (
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw",
)  # fmt: skip
IMAGE_ENDINGS = (
    *_JPEG, ".png", *_PNM, ".bmp", ".tif", ".tiff", ".webp", ".gif", ".tga",
    *(_AVIF if _HAS_AVIF else ()), *(_JPEG_2000 if _HAS_JPEG_2000 else ()),
)  # fmt: skip
"""Endings of the image files that are used."""

UNREAD_ENDINGS = (
    ".heic", ".heif", ".hif", ".jxl", ".svg", ".svgz", ".psd", ".xcf", ".exr", ".hdr", ".dcm",
    *_CAMERA_RAW, *(() if _HAS_AVIF else _AVIF), *(() if _HAS_JPEG_2000 else _JPEG_2000),
)  # fmt: skip
"""Endings of pictures of well-known kinds that cannot be read."""

_SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_NO_DATA = (*_SYSTEM, "lightning_logs")  # whose runs hold pictures of wirings


def nfc(name: str) -> str:
    """Return a name in the composed Unicode form.

    Example:
        >>> decomposed = "e" + chr(0x301)
        >>> nfc(decomposed)
        'é'
    """
    return normalize("NFC", name)


def existing(path: Path) -> Path:
    """Return the path, or the one that exists if its names are in the other Unicode form."""
    if path.exists() or path == path.parent:
        return path
    parent = existing(path.parent)
    entries = parent.iterdir() if parent.is_dir() else ()
    return next((entry for entry in entries if nfc(entry.name) == nfc(path.name)), path)


def given(path: str) -> Path:
    """Return the path that a user names: ``~`` is a home, and either Unicode form will do."""
    return existing(Path(os.path.expanduser(path)))  # noqa: PTH111  # Path refuses unknown users


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names, sorted.

    Raises:
        FileNotFoundError: If a link without an ending leads nowhere.
        RuntimeError: If two folders have the same name in two Unicode forms.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not _is_data(path.name):
            continue
        if not path.suffix:
            _check_link(path)
        if not path.is_dir() or _leads_back(path):
            continue
        name = nfc(path.name)
        if name in found:
            raise RuntimeError(
                f"The folders '{found[name]}' and '{path}' have the same name in two Unicode "
                "forms; put their files into one of them."
            )
        found[name] = path
    return dict(sorted(found.items()))


class Images(NamedTuple):
    """Paths of the images in a folder, and of the pictures in it that cannot be read."""

    paths: list[str]
    unread: list[str]


def find_images(folder: Path, below: bool = True) -> Images:
    """Return the paths of the images in a folder, folder by folder, sorted by name.

    Args:
        folder: The folder.
        below: Whether to look into the folders in it, too.

    Raises:
        FileNotFoundError: If a link with the ending of a picture leads nowhere.
    """
    found: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    pending = [folder]
    while pending:
        parent = pending.pop()
        for entry in os.scandir(parent):
            if not _is_data(entry.name):
                continue
            # A directory entry holds its type; for a link, the target is needed.
            path = Path(entry.path) if entry.is_symlink() else entry
            name = entry.name.lower()
            if path.is_dir():
                if below and not _leads_back(Path(entry.path)):
                    pending.append(Path(entry.path))
            elif name.endswith((*IMAGE_ENDINGS, *UNREAD_ENDINGS)):
                if isinstance(path, Path):
                    _check_link(path)
                if path.is_file():
                    row = nfc(str(parent)), nfc(entry.name), entry.path
                    found[name.endswith(IMAGE_ENDINGS)].append(row)
    return Images(*([path for _, _, path in sorted(found[is_read])] for is_read in (True, False)))


def warn_of_unread(folder: Path, unread: list[str]) -> None:
    """Warn of pictures in a folder that are left out because they cannot be read."""
    if unread:
        warnings.warn(
            f"'{folder}' holds {len(unread)} picture(s) of a kind that cannot be read, such as "
            f"'{Path(unread[0]).name}', and they are left out: save them as PNG or JPEG.",
            stacklevel=2,
        )


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that names images, without spaces around them."""
    return [nfc(line.strip()) for line in read_text(path).splitlines()]


def read_text(path: Path) -> str:
    """Return the content of a text file that names images, in UTF-8 or UTF-16.

    Raises:
        FileNotFoundError: If it is missing or no regular file.
        RuntimeError: If it is in another encoding.
    """
    path = existing(path)
    if not path.is_file():
        fault = f"'{path}' is no regular file" if path.exists() else f"There is no list '{path}'"
        raise FileNotFoundError(f"{fault}; correct its name or write it.")
    content = path.read_bytes()
    # Windows programs mark the encoding in the first bytes.
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise RuntimeError(
            f"The list '{path}' cannot be read as text; save it in the encoding UTF-8."
        ) from error


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name not in _NO_DATA


def _check_link(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"The link '{path}' leads nowhere; mend it or remove it.")


def _leads_back(path: Path) -> bool:
    """Whether a folder is a link to one that holds it."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in path.parents)
