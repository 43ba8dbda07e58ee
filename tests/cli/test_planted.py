"""What the command line says and draws about a network whose right wiring is known."""

from pathlib import Path

import pytest
import torch

from tests.cli.commands import refused, succeed
from wiring_lightning.backbones import GatedHeads, ResNeXt
from wiring_lightning.cli.picture import draw_network
from wiring_lightning.cli.report import recovered_rows

NETWORK = "{class_path: GatedHeads, init_args: {wiring: %s}}"


@pytest.mark.parametrize("wrong", range(0, 17, 4))
def test_recovered_edges_are_counted_among_those_with_a_choice(wrong: int) -> None:
    right = GatedHeads(wiring="planted").wiring()
    inner = (right.source > 0) & (right.target < len(right.nodes) - 1)
    gone = (right.active & inner).nonzero().flatten()[:wrong]
    new = (~right.active & inner).nonzero().flatten()[:wrong]
    active = right.active.clone()
    active[gone], active[new] = False, True
    ((label, text),) = recovered_rows(right.with_active(active), right)
    assert label == "edges recovered"
    assert text.startswith(f"{16 - wrong} of 16 ")


def test_chance_is_the_mean_over_random_wirings() -> None:
    right = GatedHeads(wiring="planted").wiring()
    torch.manual_seed(0)
    found = [
        int(recovered_rows(GatedHeads(wiring="random").wiring(), right)[0][1].split()[0])
        for _ in range(200)
    ]
    assert abs(sum(found) / 200 - 4.0) < 0.5  # a standard error of about 0.1


def test_inspect_says_how_much_is_right_and_draws_both(tmp_path: Path) -> None:
    model = ["--model=WiringComparison", f"--model.backbone={NETWORK % 'planted'}"]
    out = succeed("inspect", *model, "--figure", str(tmp_path / "both.svg"))
    assert "16 of 16 (4.0 by chance)" in out
    drawn = (tmp_path / "both.svg").read_text()
    assert "this network" in drawn
    assert "right" in drawn


def test_titles_and_sides() -> None:
    titles = [side.texts[0].get_text() for side in draw_network(GatedHeads()).subfigs]
    assert titles == ["learned", "right"]
    assert not draw_network(ResNeXt(depth=11, fan_in=2)).subfigs


def test_a_comparison_without_a_right_wiring_is_one_sentence() -> None:
    network = "{class_path: ResNeXt, init_args: {depth: 11, fan_in: 2}}"
    said = refused("inspect", "--model=WiringComparison", f"--model.backbone={network}")
    assert "ResNeXt has no `planted_wiring`" in said
