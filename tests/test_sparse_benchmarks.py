"""The comparison of the sparse family on images of noise, and the timing of its steps."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import mask_step, sparse_images
from benchmarks.sparse_images import ResNet20, _Batches


def noise(*_: object) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(20, 3, 16, 16, generator=generator), torch.arange(20) % 10
    return images, labels, images, labels


def test_the_network_is_the_papers_resnet20() -> None:
    # 0.27 million parameters (He et al., 2016, Table 6); with shortcuts without weights 269,722.
    assert sum(weight.numel() for weight in ResNet20().parameters()) == 269_722
    assert ResNet20(4)(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_batches_depend_on_the_seed_only_and_are_shifted_images() -> None:
    images, labels, *_ = noise()
    one, again, other = (
        list(_Batches(images, labels, size=4, steps=3, seed=seed)) for seed in (0, 0, 1)
    )
    assert [own[1].tolist() for own in one] == [own[1].tolist() for own in again]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, again, strict=True))
    assert [own[1].tolist() for own in one] != [own[1].tolist() for own in other]
    known = {round(float(value), 5) for value in images.flatten()} | {0.0}
    assert {round(float(value), 5) for value in one[0][0].flatten()} <= known


def test_every_method_leaves_the_asked_weights_and_a_second_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sparse_images, "load", noise)
    monkeypatch.setattr(sparse_images, "keep_freed_memory", lambda: None)  # starts anew
    name = tmp_path / "out"
    command = ["x", "--steps", "2", "--batch", "4", "--width", "4", "--name", str(name)]
    first = [*command, "--densities", "0.1", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*first, "--methods", "dense", "random", "DNW"])
    sparse_images.main()
    assert sum(line.endswith(" s") for line in capsys.readouterr().out.splitlines()) == 3
    monkeypatch.setattr(sys, "argv", first)
    sparse_images.main()
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" s")]
    assert len(said) == 4
    assert not any(line.startswith(("dense", "random", "DNW")) for line in said)
    with name.with_suffix(".csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    whole = int(rows["dense"]["of"])
    for method, row in rows.items():
        # Two steps are before the first change of SET and RigL, and gradual pruning has ended.
        assert int(row["weights"]) == (whole if method == "dense" else round(0.1 * whole)), method
    monkeypatch.setattr(sys, "argv", [*first, "--lr", "0.2"])
    with pytest.raises(SystemExit, match="choose another --name"):
        sparse_images.main()


def test_every_rule_takes_a_step_and_is_compared_with_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_step, "keep_freed_memory", lambda: None)  # starts anew
    monkeypatch.setattr(mask_step.torchvision.models, "resnet18", lambda **_: ResNet20(4))
    written = tmp_path / "out.md"
    command = ["x", "--batch", "2", "--rounds", "1", "--warm-up", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--markdown", str(written)])
    mask_step.main()
    rows = [line for line in written.read_text().splitlines() if line.endswith("MiB |")]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in mask_step._RULES]
