"""The method of `docs/extending.md` is short, and does what it says."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim import SGD

from tests.callbacks.reader import Reader, batches, fit

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def method() -> tuple[str, type[Any]]:
    """The class in the page, and its source."""
    (source,) = re.findall(r"```python\n([^`]*class MEST.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(source, names)
    return source, names["MEST"]


def test_a_method_is_a_subclass_of_fifteen_lines() -> None:
    source, _ = method()
    lines = [line for line in source.splitlines() if line.strip()]
    assert len(lines) <= 15


def test_it_drops_by_its_own_score() -> None:
    _, make = method()
    data = batches(1)
    learner = make(factor=2.0, fraction=0.5, density=0.25, every=1, until=1.0, total_steps=9)
    before = Reader(partial(SGD, lr=0.0)).double()
    _, watch = fit(learner, Reader(partial(SGD, lr=0.0)), data=data)
    start = watch.before[0]
    for name, parameter in before.named_parameters():
        if name in start:
            parameter.data.copy_(start[name])
    loss = functional.cross_entropy(before(data[0][0]), data[0][1])
    (gradient,) = torch.autograd.grad(loss, before.body[1].weight)
    old = start["body.1.weight"] != 0
    score = (before.body[1].weight.abs() + 2 * gradient.abs()).masked_fill(~old, -1)
    kept = score.flatten().argsort(descending=True)[:144]  # half of 288
    mask = learner._rules[0].masks[1]
    assert mask.flatten()[kept].all()
    assert int(mask.sum()) == 288
