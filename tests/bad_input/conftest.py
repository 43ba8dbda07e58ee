import pytest

from tests.bad_input.configs import callbacks, config_with
from tests.cli.commands import wiring, write


@pytest.fixture(autouse=True)
def in_workplace(workplace: None) -> None:
    """Every test here runs in an empty folder of its own."""


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """The config and the checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("run")
    saver = ("ModelCheckpoint", {"dirpath": str(folder), "filename": "good"})
    file = write(config_with(callbacks(("MaskConnect", {}), saver)), folder / "run.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.chdir(folder)
        assert wiring("fit", "--config", file).code == 0
    return file, (folder / "good.ckpt").read_bytes()
