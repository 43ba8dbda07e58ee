"""What is wrong on the command line is refused in one sentence."""

from pathlib import Path

import pytest

from tests.bad_input.configs import config_with
from tests.cli.commands import refused, write


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nonsense=1"], "unrecognized arguments: --nonsense=1"),
        (["--trainer.nonsense=1"], "unrecognized arguments: --trainer.nonsense=1"),
        (["--model.nonsense=1"], "model: ClassificationTask has no option 'nonsense'"),
        (["--model.backbone.nonsense=1"], "model.backbone: ResNeXt has no option 'nonsense'"),
        (["--model.backbone=ResNext"], "model.backbone: there is no class 'ResNext'; did you mean"),
        (["--trainer.max_epochs=many"], "trainer.max_epochs"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--config=broken.yaml"], "Problems parsing config"),
        (["--config=words.yaml"], "Unexpected config: just some words"),
    ],
)
def test_a_bad_argument_is_refused_in_one_sentence(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text("model: [\n  x: {")
    (tmp_path / "words.yaml").write_text("just some words")
    said = refused("fit", "--config", write(config_with(), tmp_path / "good.yaml"), *arguments)
    assert expected in said
    assert "wiring fit --help" in said


def test_an_unknown_subcommand_is_refused() -> None:
    said = refused("train")
    assert "'train'" in said
    assert "'fit', 'validate', 'test', 'predict', 'inspect'" in said


def test_a_library_that_is_not_installed_is_named(tmp_path: Path) -> None:
    config = write(config_with(), tmp_path / "good.yaml")
    said = refused("fit", "--config", config, "--trainer.accelerator=tpu")
    assert "torch_xla" in said
    assert "unexpected" not in said
