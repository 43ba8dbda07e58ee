"""What is wrong on the command line is refused in one sentence."""

import re
from inspect import isabstract, isclass
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from lightning.pytorch import loggers

from tests.bad_input.configs import config_with
from tests.cli.commands import refused, succeed, write
from wiring_lightning import backbones, callbacks, data, tasks


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


@pytest.mark.parametrize("name", ["fit", "inspect", "table"])
def test_the_subcommand_comes_first(name: str, tmp_path: Path) -> None:
    file = write(config_with(), tmp_path / "good.yaml")
    said = refused("--config", file, name)
    assert said == f"the subcommand comes first: wiring {name} --config FILE"


def test_a_config_before_the_subcommand_has_a_section_for_it(tmp_path: Path) -> None:
    file = write({"fit": config_with()}, tmp_path / "sections.yaml")
    for before in (["--config", file], [f"--config={file}"]):
        printed = yaml.safe_load(succeed(*before, "fit", "--data.batch_size=5", "--print_config"))
        assert printed["data"]["init_args"]["batch_size"] == 5
        assert printed["trainer"]["max_epochs"] == config_with()["trainer"]["max_epochs"]


@pytest.mark.parametrize("config", ["--config FILE", "--config=FILE", "-c FILE"])
def test_an_option_counts_wherever_the_config_stands(config: str, tmp_path: Path) -> None:
    file = write(config_with(), tmp_path / "good.yaml")
    options = ["--trainer.max_epochs=7", "--data.batch_size", "5"]
    given = [*options[:1], *config.replace("FILE", file).split(), *options[1:], "--print_config"]
    printed = yaml.safe_load(succeed("fit", *given))
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["data"]["init_args"]["batch_size"] == 5


@pytest.mark.parametrize(
    ("option", "package", "name"),
    [("--model.backbone", backbones, "Nosuch"), ("--model", tasks, "Nosuch"),
     ("--data", data, "Nosuch"), ("--trainer.callbacks", callbacks, "Phase"),
     ("--trainer.callbacks+", callbacks, "Nosuch"), ("--trainer.logger", loggers, "Identity42")],
)  # fmt: skip
def test_a_class_that_is_not_there_lists_those_that_are(
    option: str, package: ModuleType, name: str, tmp_path: Path
) -> None:
    said = refused("fit", "--config", write(config_with(), tmp_path / "good.yaml"), option, name)
    _, _, listed = said.partition(f"there is no class '{name}'; there are ")
    shown = listed.partition(", or give an import path")[0]
    names = re.sub(r" and \d+ more$", "", shown).split(", ")
    assert len(names) >= 3
    assert "..." not in said  # not cut by the limit of a message
    for one in names:
        assert one in package.__all__
        if package is not loggers:  # some loggers need a package that may not be there
            assert isclass(found := getattr(package, one))
            assert not isabstract(found)


@pytest.mark.parametrize(
    ("option", "example"),
    [
        ("--model.optimizer", "torch.optim.SGD"),
        ("--model.lr_scheduler", "torch.optim.lr_scheduler"),
    ],
)
def test_a_class_of_torch_that_is_not_there_gets_an_example(
    option: str, example: str, tmp_path: Path
) -> None:
    said = refused(
        "fit", "--config", write(config_with(), tmp_path / "good.yaml"), option, "Nosuch"
    )
    assert f"give its import path, package.module.Class, such as {example}" in said


def test_an_unknown_subcommand_is_refused() -> None:
    said = refused("train")
    assert "'train'" in said
    assert "'fit', 'validate', 'test', 'predict', 'inspect'" in said


def test_a_library_that_is_not_installed_is_named(tmp_path: Path) -> None:
    config = write(config_with(), tmp_path / "good.yaml")
    said = refused("fit", "--config", config, "--trainer.accelerator=tpu")
    assert "torch_xla" in said
    assert "unexpected" not in said
