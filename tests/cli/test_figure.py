"""`wiring figure`, from the folders that `wiring fit` leaves."""

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from tests.cli.commands import BASE, checkpoint_in, network_of, refused, succeed, wiring, write
from wiring_lightning import costs
from wiring_lightning.cli.figure import KINDS
from wiring_lightning.tasks import ClassificationTask


@dataclass
class Fit:
    """A run of a few steps, and the test accuracy that the command line reported."""

    root: Path  # the root directory, above lightning_logs/version_0
    accuracy: float

    @property
    def folder(self) -> Path:
        return self.root / "lightning_logs" / "version_0"


def fit(root: Path, seed: int = 3, **backbone: Any) -> Fit:
    config = deepcopy(BASE)
    arguments = config["model"]["init_args"]["backbone"]["init_args"]
    arguments |= backbone
    config["seed_everything"] = seed
    config["trainer"] |= {"limit_train_batches": 3, "default_root_dir": str(root)}
    config["trainer"] |= {"limit_test_batches": 1, "enable_progress_bar": False}
    if arguments.get("wiring", "learned") != "learned":
        config["trainer"]["callbacks"] = []
    root.mkdir()
    out = succeed("fit", "--config", write(config, root / "written.yaml"))
    (line,) = [line for line in out.splitlines() if line.startswith("test acc ")]
    return Fit(root, float(line.split()[-1]))


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fit]]:
    root = tmp_path_factory.mktemp("fits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        yield {
            "one": fit(root / "one"),
            "one again": fit(root / "one again", seed=4),
            "three": fit(root / "three", fan_in=3),
            "full": fit(root / "full", wiring="full"),
            "random": fit(root / "random", wiring="random", fan_in=3),
        }


@pytest.fixture
def copy(fits: dict[str, Fit], tmp_path: Path) -> Path:
    """A run folder to damage."""
    folder = tmp_path / "copy" / "version_0"
    shutil.copytree(fits["one"].folder, folder)
    return folder


def live_branches(fit: Fit, **changes: Any) -> list[int]:
    """Branches of every module that `compact()` keeps of a run's network."""
    network = network_of(str(checkpoint_in(fit.folder)), **changes)
    return [block.branches for block in network.compact().blocks.values()]


# Each kind, from run folder to picture


def test_active_counts_what_compact_leaves(fits: dict[str, Fit], saved: list[Figure]) -> None:
    out = succeed("figure", "active", str(fits["one"].folder), str(fits["three"].root))
    assert out == "active.png\n"
    assert Path("active.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = saved[0].axes
    first, second = axes.containers
    assert [bar.get_height() for bar in first] == live_branches(fits["one"])
    assert [bar.get_height() for bar in second] == live_branches(fits["three"], fan_in=3)
    assert min(live_branches(fits["one"])) < 6
    assert (first.get_label(), second.get_label()) == ("K = 1 (one)", "K = 3 (three)")


def test_active_labels_fixed_wirings(fits: dict[str, Fit], saved: list[Figure]) -> None:
    succeed("figure", "active", str(fits["full"].root), str(fits["random"].root))
    (axes,) = saved[0].axes
    labels = [bars.get_label() for bars in axes.containers]
    assert labels == ["full (full)", "random, K = 3 (random)"]
    assert [bar.get_height() for bar in axes.containers[0]] == [6, 6, 6]


def test_connectivity_shows_the_learned_wiring(fits: dict[str, Fit], saved: list[Figure]) -> None:
    out = succeed("figure", "connectivity", str(fits["one"].folder), "--output", "new/wiring.svg")
    assert out == "new/wiring.svg\n"
    assert "<svg" in Path("new/wiring.svg").read_text()
    left, right = saved[0].subfigs
    assert right.texts[0].get_text() == "learned, K = 1"
    live = sum(live_branches(fits["one"]))
    assert (
        right.texts[1].get_text() == f"{live} of 18 branches live, 12 of 72 learnable edges active"
    )
    assert left.texts[1].get_text() == "18 of 18 branches live, 84 of 84 edges active"


def test_accuracy_is_what_the_runs_reported(fits: dict[str, Fit], saved: list[Figure]) -> None:
    succeed("figure", "accuracy", *(str(fit.root) for fit in fits.values()), "-o", "a.pdf")
    assert Path("a.pdf").read_bytes().startswith(b"%PDF")
    (axes,) = saved[0].axes
    learned, random = axes.containers
    line, _, (bars,) = learned
    ones = [100 * fits[name].accuracy for name in ("one", "one again")]
    assert ones[0] != ones[1]
    assert line.get_xdata().tolist() == [1, 3]
    expected = [fmean(ones), 100 * fits["three"].accuracy]
    np.testing.assert_allclose(line.get_ydata().astype(float), expected, atol=0.006)
    low, high = bars.get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(stdev(ones), abs=0.01)
    assert [text.get_text() for text in axes.texts] == ["n = 2", "n = 1"]
    assert random[0].get_ydata()[0] == pytest.approx(100 * fits["random"].accuracy, abs=0.006)
    (full,) = [line for line in axes.lines if line.get_label() == "full (n = 1)"]
    assert full.get_ydata()[0] == pytest.approx(100 * fits["full"].accuracy, abs=0.006)
    assert axes.get_title(loc="left") == "Digits"


# Which run, which checkpoint


def test_the_last_checkpoint_is_the_one_with_the_most_steps(
    copy: Path, saved: list[Figure]
) -> None:
    path = checkpoint_in(copy)
    succeed("figure", "active", str(copy))
    content = torch.load(path, weights_only=True)
    for name, scores in content["state_dict"].items():
        if name.endswith("scores"):  # all branches read branch 2 of the module before
            scores.zero_()[:, 2] = 1
    for steps, name in ((-1, "zz_earlier.ckpt"), (1, "aa_later.ckpt")):
        torch.save(content | {"global_step": content["global_step"] + steps}, path.parent / name)
        succeed("figure", "active", str(copy))
    before, with_earlier, with_later = (
        [bar.get_height() for bar in figure.axes[0].containers[0]] for figure in saved
    )
    assert before == with_earlier
    assert with_later == [1, 1, 6]


def test_the_folder_that_a_test_writes_is_enough_for_accuracy(
    copy: Path, fits: dict[str, Fit], saved: list[Figure], tmp_path: Path
) -> None:
    for events in copy.glob("events*"):
        events.unlink()
    said = refused("figure", "accuracy", str(copy))
    assert f"{copy} has no test accuracy" in said
    assert f"wiring test --config {copy / 'config.yaml'} --ckpt_path FILE" in said
    root = f"--trainer.default_root_dir={tmp_path / 'tested'}"
    given = ("--config", str(copy / "config.yaml"), "--ckpt_path", str(checkpoint_in(copy)))
    succeed("test", *given, root)
    succeed("figure", "accuracy", str(tmp_path / "tested"))
    line = saved[0].axes[0].containers[0][0]
    assert line.get_ydata()[0] == pytest.approx(100 * fits["one"].accuracy, abs=0.006)


# What is said when it cannot be drawn


def test_a_folder_without_a_run_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no config.yaml" in refused("figure", "active", "empty")
    assert "nowhere does not exist" in refused("figure", "active", "nowhere")
    assert "is a file" in refused("figure", "active", str(copy / "config.yaml"))


def test_a_folder_with_two_runs_is_refused(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "version_1")
    said = refused("figure", "accuracy", str(copy.parent))
    assert "holds 2 runs (version_0, version_1): give one of them" in said


def test_runs_at_different_depths_are_two(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "other" / "version_0")
    said = refused("figure", "active", str(copy.parent))
    assert "holds 2 runs (other/version_0, version_0)" in said


@pytest.mark.parametrize("kind", ["active", "connectivity"])
def test_a_run_without_a_checkpoint_is_refused(kind: str, copy: Path) -> None:
    checkpoint_in(copy).unlink()
    assert f"{copy} has no checkpoint" in refused("figure", kind, str(copy))
    succeed("figure", "accuracy", str(copy))  # needs none


def test_a_damaged_checkpoint_is_refused(copy: Path) -> None:
    path = checkpoint_in(copy)
    path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in refused("figure", "active", str(copy))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: [", "cannot be read as YAML"),
        ("- 1", "names no model"),
        ("trainer: {}", "names no model"),
        ("model: {class_path: ClassificationTsk}", "did you mean ClassificationTask"),
    ],
)
def test_a_config_that_describes_no_run_is_refused(content: str, expected: str, copy: Path) -> None:
    (copy / "config.yaml").write_text(content)
    said = refused("figure", "active", str(copy))
    assert expected in said
    assert str(copy / "config.yaml") in said


class Plain(ClassificationTask):
    """A task whose network cannot tell a wiring."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_a_network_without_a_wiring_is_refused(copy: Path) -> None:
    (copy / "config.yaml").write_text("model: {class_path: tests.cli.test_figure.Plain}")
    for kind in ("connectivity", "active"):
        assert "The Plain of" in refused("figure", kind, str(copy), "--trust")
    assert "has no fan-in" in refused("figure", "accuracy", str(copy), "--trust")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("width: 2", "width: 4", "differ in model.backbone.width (2 and 4)"),
        ("data.Digits", "data.FashionMNIST", "differ in data (Digits and FashionMNIST)"),
        ("backbones.ResNeXt", "backbones.Other", "in model.backbone (ResNeXt and Other)"),
        ("train_batches: 3\n", "train_batches: 2\n", "(1 of 3 batches and 1 of 2 batches)"),
        ("batch_size: 64", "batch_size: 8", "differ in data.batch_size (64 and 8)"),
        ("smoothing: 0.0", "smoothing: 0.1", "differ in model.label_smoothing (0.0 and 0.1)"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    old: str, new: str, expected: str, fits: dict[str, Fit], copy: Path
) -> None:
    config = copy / "config.yaml"
    written = config.read_text()
    config.write_text(written.replace(old, new))
    assert config.read_text() != written
    runs = "figure", "accuracy", str(fits["three"].root), str(copy)
    said = refused(*runs)
    assert expected in said
    assert "give runs that agree, or --mix" in said
    if "Other" not in new:
        mixed = wiring(*runs, "--mix")
        assert (mixed.code, expected in mixed.err) == (0, True)


def test_runs_of_one_mean_say_what_they_differ_in(fits: dict[str, Fit], copy: Path) -> None:
    """Other seeds alone are not worth a word."""
    again = "figure", "accuracy", str(fits["one again"].root), str(copy)
    assert "differ" not in wiring(*again, "-o", "seeds.png").err
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.5\n", "lr: 0.25\n"))
    said = wiring(*again, "-o", "rates.png").err
    what = "trainer.callbacks.MaskConnect.lr (0.5 and 0.25)"
    assert f"the runs of one mean (learned, K = 1) differ in {what}" in said


def test_efficiency_has_a_point_for_each_setting(fits: dict[str, Fit], saved: list[Figure]) -> None:
    """Learned wirings of other seeds have other sizes, and are of one mean all the same."""
    names = ("one", "one again", "three", "random")
    succeed("figure", "efficiency", *(str(fits[name].root) for name in names))
    learned, random = saved[0].axes[0].containers
    labels = [container.get_label() for container in (learned, random)]
    assert labels == ["ResNeXt, learned, MaskConnect", "ResNeXt, random"]
    sizes = {
        name: int(costs.parameters(network_of(str(checkpoint_in(fits[name].folder)), **changes)
                                   .wiring()))
        for name, changes in (("one", {}), ("one again", {}), ("three", {"fan_in": 3}))
    }  # fmt: skip
    ones = ["one", "one again"]
    expected = {fmean(sizes[name] for name in ones): fmean(fits[name].accuracy for name in ones),
                sizes["three"]: fits["three"].accuracy}  # fmt: skip
    drawn = dict(zip(learned[0].get_xdata(), learned[0].get_ydata(), strict=True))
    assert drawn == {size: pytest.approx(100 * acc, abs=0.01) for size, acc in expected.items()}
    assert random[0].get_ydata() == pytest.approx([100 * fits["random"].accuracy], abs=0.01)


def test_a_run_given_twice_is_refused(fits: dict[str, Fit]) -> None:
    one = fits["one"]
    assert "is given 2 times" in refused("figure", "accuracy", str(one.root), str(one.folder))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "KIND"),
        (("active",), "RUN"),
        (("wirings", "run"), "'wirings'"),
        (("connectivity", "run1", "run2"), "one run, but 2 are given"),
        (("active", "run", "--outptu=x"), "--outptu"),
        (("active", "run", "--mix"), "--mix is for accuracy and efficiency"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[str, ...], expected: str) -> None:
    said = refused("figure", *arguments)
    assert expected in said
    assert "wiring figure --help" in said


# Help


def test_help_teaches_every_kind() -> None:
    out = succeed("figure", "--help")
    for kind in KINDS:
        assert f"wiring figure {kind} " in out
    assert "wiring fit" in out


def test_a_misspelt_subcommand_is_told_about_figure() -> None:
    assert "'export', 'figure'" in refused("figures", "active")
    assert wiring("--help").out.count("figure") >= 2
