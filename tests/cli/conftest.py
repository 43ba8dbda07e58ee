from pathlib import Path

import pytest
from matplotlib.figure import Figure

import wiring_lightning.plots
from tests.cli.commands import BASE, Trained, checkpoint_in, succeed, write


@pytest.fixture(autouse=True)
def in_workplace(workplace: None) -> None:
    """Every test here runs in an empty folder of its own."""


@pytest.fixture
def base(tmp_path: Path) -> str:
    return write(BASE, tmp_path / "base.yaml")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that a command has written."""
    figures: list[Figure] = []
    save = wiring_lightning.plots.save_figure

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(wiring_lightning.plots, "save_figure", keep)
    return figures


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of `BASE`."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        report = succeed(
            "fit", "--config", write(BASE, root / "base.yaml"), f"--trainer.default_root_dir={root}"
        )
    checkpoint = checkpoint_in(root)
    folder = checkpoint.parents[1]
    return Trained(folder, str(folder / "config.yaml"), str(checkpoint), report)
