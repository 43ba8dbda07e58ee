"""Find files, with links and accents in names.

Skips names that start with a dot, and folders that operating systems, archives or runs add. Follows
links, except into a folder that contains the link. Opens only regular files, because reading a pipe
or a device may never end. Letters with accents have two Unicode forms, composed (NFC) and
decomposed (NFD, on files from a Mac); all names are compared as NFC.
"""

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from unicodedata import normalize

_JPEG = (".jpg", ".jpeg", ".jfif")
IMAGE_ENDINGS = (*_JPEG, ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")

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
        if not path.exists() and not path.suffix:
            raise FileNotFoundError(f"The link '{path}' leads nowhere; mend it or remove it.")
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


def image_files(folder: Path, below: bool = True) -> list[str]:
    """Return the paths of the images in a folder, folder by folder, sorted by name.

    Args:
        folder: The folder.
        below: Whether to look into the folders in it, too.
    """
    found = []
    pending = [folder]
    while pending:
        parent = pending.pop()
        for entry in os.scandir(parent):
            if not _is_data(entry.name):
                continue
            # A directory entry holds its type; for a link, the target is needed.
            path = Path(entry.path) if entry.is_symlink() else entry
            is_image = entry.name.lower().endswith(IMAGE_ENDINGS)
            if path.is_dir():
                if below and not _leads_back(Path(entry.path)):
                    pending.append(Path(entry.path))
            # A broken link stays in the list: reading it reports the missing image.
            elif is_image and (path.is_file() or not Path(entry.path).exists()):
                found.append((nfc(str(parent)), nfc(entry.name), entry.path))
    return [path for _, _, path in sorted(found)]


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


def _leads_back(path: Path) -> bool:
    """Whether a folder is a link to one that holds it."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in path.parents)
