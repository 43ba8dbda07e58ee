"""The comparisons of learned wirings on images, on images of noise."""

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import image_wirings
from benchmarks.compare_wirings import set_edges
from benchmarks.image_networks import BRANCHES, CONTROLS, COVERED, LEARNED, Branched, Given, Mixture
from benchmarks.image_wirings import _pack, _unpack, train
from wiring_lightning.nn import Gate

RULES = {**CONTROLS, **LEARNED}


def noise(*_: object) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 8, 8, generator=generator), torch.arange(64) % 10
    return images, labels, images, labels


def settings() -> Namespace:
    return Namespace(fan_in=1, steps=(6, 2), batch=8, lr=0.01)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_ends_with_k_edges_a_target_that_the_network_uses(name: str) -> None:
    network, _ = train(noise(), RULES[name], settings(), seed=0)
    found = network.found()
    assert found.sum(-1).unique().tolist() == [BRANCHES if name == "full" else 1]
    # A network of fixed gates with these edges and the same weights is the same function.
    twin = Branched(Given(1, 0, 1, wiring=found).edges, 1)
    weights = {key: value for key, value in network.state_dict().items() if "edges" not in key}
    twin.load_state_dict(weights, strict=False)
    images = noise()[0]
    torch.testing.assert_close(twin.eval()(images), network.eval()(images))
    if name == COVERED or "balance" in name or "softmax" in name:
        assert found.any(1).all()


def test_a_mixture_keeps_its_heaviest_sources_and_every_source_has_a_reader() -> None:
    edges = Mixture()
    weights = torch.full((BRANCHES, BRANCHES), 0.1)
    wanted = torch.randperm(BRANCHES, generator=torch.Generator().manual_seed(0))
    weights[torch.arange(BRANCHES), wanted] = 1.0
    edges.logits.data.copy_(weights.log())
    edges.keep(3)
    assert edges.best.sum(1).tolist() == edges.best.sum(0).tolist() == [3] * BRANCHES
    edges.keep(1)
    assert edges.best.int().argmax(1).tolist() == wanted.tolist()
    sources = torch.randn(2, BRANCHES, 5)
    torch.testing.assert_close(edges(sources), sources[:, wanted])


def test_edges_as_text_come_back() -> None:
    edges = torch.rand(5, BRANCHES, BRANCHES) < 0.3
    edges[..., 0] |= ~edges.any(-1)  # every target has a source
    assert torch.equal(_unpack(_pack(edges)), edges)


def test_the_search_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_wirings, "load", noise)
    monkeypatch.setattr(image_wirings, "keep_freed_memory", lambda: None)  # starts anew
    name, rule = tmp_path / "out", "MaskConnect"
    command = ["x", "--steps", "3", "2", "--batch", "4", "--name", str(name), "--only", COVERED]
    main = partial(monkeypatch.setattr, sys, "argv")
    main([*command, "--seeds", "1"])
    image_wirings.main()
    assert capsys.readouterr().out.count("\n") == 1
    main([*command, rule, "--seeds", "2"])
    image_wirings.main()
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split(" Mask")[0] for line in lines if rule in line]
    assert kinds == ["joint", "joint", "from scratch", "from scratch", "other draws"]
    assert sum(COVERED in line for line in lines) == 1  # seed 0 is there
    table = name.with_suffix(".md").read_text()
    assert f"| {COVERED} | 2 |" in table
    assert "1.00 | - |" in table
    main([*command, rule, "--seeds", "2", "--lr", "0.1"])
    with pytest.raises(SystemExit, match="choose another --name"):
        image_wirings.main()


def test_a_random_gate_takes_a_given_wiring() -> None:
    gate, wanted = Gate(4, 6, 2, mode="random"), torch.zeros(4, 6, dtype=torch.bool)
    wanted[:, [1, 5]] = True
    set_edges(gate, wanted)
    sources = torch.randn(3, 6, 2)
    for mode in (True, False):
        expected = sources[:, [1, 5]].sum(1, keepdim=True).expand(3, 4, 2)
        torch.testing.assert_close(gate.train(mode)(sources), expected)
