"""Writing pictures to files."""

from pathlib import Path

from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file whose ending says the format, and create the folders above it.

    Args:
        figure: the figure.
        path: such as `pictures/wiring.png`, `.pdf` or `.svg`.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(), f"{folder}/new/empty.png")
        ...     Path(folder, "new", "empty.png").exists()
        True
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
