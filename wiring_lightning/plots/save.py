"""Writing pictures to files."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from wiring_lightning.files import picture_path, write_file


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file whose ending says the format, and create the folders above it.

    Args:
        figure: the figure.
        path: such as `pictures/wiring.png`, `.pdf` or `.svg`; without an ending it gets `.png`.

    Raises:
        ValueError: if the ending names no format of pictures.
        OSError: if the file cannot be written; an earlier one is still there.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(), f"{folder}/new/empty.png")
        ...     Path(folder, "new", "empty.png").exists()
        True
    """
    path = picture_path(path)
    content = BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."))
    write_file(path, content.getbuffer())
