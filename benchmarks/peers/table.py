"""The answers of all tools as a table in Markdown, with errors in full below it."""

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.job import SPARSE_LAYERS

Answer = Mapping[str, Any]
Answers = Mapping[str, Answer]
HEADINGS = (
    "tool",
    "sparse layers",
    "density",
    "accuracy",
    "resumed run",
    "DDP, the two ranks",
    "DDP, one process with both batches",
    "density of the average",
    "torch.compile",
    "skipped step in which masks change",
    "another skipped step",
    "a plain network loads the checkpoint",
    "and the finished network",
)
ROUNDING = 1e-9  # of float64, after a training


class Notes:
    """Numbers for errors and remarks that are too long for a cell."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """A mark for the cell; the same text has the same number."""
        if text not in self._texts:
            self._texts.append(text)
        return f"[{self._texts.index(text) + 1}]"

    def lines(self) -> list[str]:
        """All of them, in order."""
        return [f"{number}. {text}" for number, text in enumerate(self._texts, 1)]


def table(rows: Mapping[str, Answers]) -> list[str]:
    """Lines of Markdown.

    Args:
        rows: by the name of the tool, the answers by the name of the check. A tool that pip could
            not install has only `pip`, what pip said.
    """
    notes = Notes()
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    for name, answers in rows.items():
        lines.append("| " + " | ".join([name, *cells(answers, notes)]) + " |")
    texts = notes.lines()
    return [*lines, "", *texts] if texts else lines


def cells(answers: Answers, notes: Notes) -> list[str]:
    """A row without the name."""
    if "pip" in answers:
        said = notes.mark(f"pip: {answers['pip']['failed']}")
        return [f"not installed {said}"] + [""] * (len(HEADINGS) - 2)
    sparse = answers.get("sparse", {})
    ddp = answers.get("ddp", {})
    scaler = answers.get("scaler", {})
    return [
        _cell(sparse, lambda a: _layers(a["layers"]), notes),
        _cell(sparse, lambda a: f"{a['density']:.4f}", notes),
        _cell(sparse, lambda a: f"{a['accuracy']:.3f}", notes),
        _cell(answers.get("resume", {}), lambda a: _resumed(a, notes), notes),
        _cell(ddp, lambda a: same(a["ranks"]), notes),
        _cell(ddp, lambda a: same(a["joint"]), notes),
        _cell(answers.get("average", {}), lambda a: f"{a['density']:.4f}", notes),
        _cell(answers.get("compile", {}), _compiled, notes),
        _cell(scaler, lambda a: _cell(a["due"], _skipped, notes), notes),
        _cell(scaler, lambda a: _cell(a["other"], _skipped, notes), notes),
        _cell(sparse, lambda a: _loads(a["middle"]), notes),
        _cell(sparse, lambda a: _loads(a["finished"]), notes),
    ]


def same(answer: Answer) -> str:
    """Two networks in words."""
    off, masks = answer["difference"], answer["masks"]
    if off == 0 and masks == 0:
        return "equal"
    if off < ROUNDING and masks == 0:
        return f"equal to {off:.0e}"
    places = f", {masks:,} weights in one only" if masks else ", same masks"
    return f"differ by {off:.2g}{places}"


def _cell(answer: Answer, text: Any, notes: Notes) -> str:
    if not answer:
        return "not asked"
    if "failed" in answer:
        return f"error {notes.mark(answer['failed'])}"
    found: str = text(answer)
    return found


def _layers(names: list[str]) -> str:
    left = [name for name in SPARSE_LAYERS if name not in names]
    return "all" if not left else "all but " + ", ".join(left)


def _resumed(answer: Answer, notes: Notes) -> str:
    text = same(answer)
    if answer["masks"]:
        text += f"; density {answer['density']:.4f}"
    if same(answer["twice"]) != same(answer):
        text += f"; resumed twice: {same(answer['twice'])}"
    return " ".join([text, *map(notes.mark, answer["notes"])])


def _compiled(answer: Answer) -> str:
    graphs, breaks, error = answer["graphs"], answer["breaks"], answer["error"]
    made = f"{graphs} graph{'s' if graphs != 1 else ''}"
    made += f", {breaks} break{'s' if breaks != 1 else ''}" if breaks else ""
    right = "follows the masks" if error < ROUNDING else f"logits off by {error:.2g}"
    return f"{made}; {right}"


def _skipped(answer: Answer) -> str:
    if answer["changed"] == 0 and answer["finite"]:
        return "changes nothing"
    if math.isnan(answer["density"]) or not answer["finite"]:
        return "weights are not finite"
    return f"changes {answer['changed']:,} weights"


def _loads(keys: Answer) -> str:
    missing, unexpected = len(keys["missing"]), len(keys["unexpected"])
    if not missing and not unexpected:
        return "yes"
    return f"no: {missing} keys missing, {unexpected} unexpected"
