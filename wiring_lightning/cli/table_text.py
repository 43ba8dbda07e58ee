"""A table of rows of runs, as Markdown for people and as CSV for programs."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from wiring_lightning.cli.direction import less_is_better
from wiring_lightning.cli.papers import published
from wiring_lightning.cli.run_length import has_other_length
from wiring_lightning.cli.run_rows import Difference, Row, paired

# Beginnings of a name that say that a score is a share.
_SHARES = ("acc", "iou", "miou", "pixel_acc")
_KEY = "backbone, wiring, learner"


@dataclass(frozen=True)
class Table:
    """Rows of runs, and how to read them.

    Args:
        keys: what the rows are named by.
        rows: at least one.
        tag: name of the score, such as `test/acc`.
        against: the row that the others are compared with; `None` if there is only one.
    """

    keys: Sequence[str]
    rows: Sequence[Row]
    tag: str
    against: Row | None

    @property
    def scale(self) -> int:
        """100 for shares, which are shown in percent, and 1 for other numbers."""
        name = self.tag.rpartition("/")[2]
        return 100 if name.startswith(_SHARES) or "/iou/" in self.tag else 1

    @property
    def unit(self) -> str:
        """What a score is, such as `test/acc (%)`."""
        return self.tag + " (%)" * (self.scale == 100)

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know about the runs of a row."""
        pooled = [
            f"The runs of the row {row.label} differ in {row.pooled}."
            for row in self.rows
            if row.pooled
        ]
        return pooled + [
            f"The costs of the row {row.label} count all weights of what is live, also those that "
            "are zero in sparse layers, which `wiring inspect` tells apart."
            for row in self.rows
            if row.has_zeros
        ]

    def best(self, row: Row) -> float:
        """The best score of a row; of losses and errors the smallest."""
        return min(row.scores) if less_is_better(self.tag) else max(row.scores)

    def markdown(self) -> str:
        """The table, without its notes."""
        keys = [_KEY if key == "method" else key for key in self.keys]
        columns = [*keys, "n", f"best {self.unit}", "mean ± sd"]
        if self.against is not None:
            columns.append(f"difference to {self.against.label}, ± se (pairs)")
        columns += ["parameters", "multiply-adds"]
        papers = [_papers(row) for row in self.rows]
        if any(papers):
            columns.append("paper")
        lines = []
        for row, paper in zip(self.rows, papers, strict=True):
            cells = [*row.names, str(len(row.runs)), self._number(self.best(row))]
            cells.append(self._mean(row))
            if self.against is not None:
                cells.append(self._difference(row))
            cells += [_size(row, "parameters"), _size(row, "multiply_adds")]
            lines.append(cells + [paper or "-"] * any(papers))
        return markdown(columns, lines)

    def csv(self) -> str:
        """The table with all digits, and the score of every seed; shares are 0 to 1."""
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            [*self.keys, "n", "score", "best", "mean", "sd", "against", "difference", "se", "pairs",
             "parameters", "live_parameters", "multiply_adds", "live_multiply_adds", "paper",
             "seeds", "scores"]
        )  # fmt: skip
        for row in self.rows:
            gap = self._gap(row)
            sizes = [row.mean_size(name) for name in ("parameters", "multiply_adds")]
            writer.writerow(
                [*row.names, len(row.runs), self.tag, self.best(row), _mean(row), row.deviation,
                 *([None] * 4 if gap is None or self.against is None
                   else [self.against.label, gap.mean, gap.error, gap.pairs]),
                 *(count for size in sizes for count in (size or (None, None))),
                 _papers(row), " ".join(str(one.seed) for one in row.runs),
                 " ".join(map(str, row.scores))]
            )  # fmt: skip
        return out.getvalue()

    def _number(self, value: float, sign: str = "") -> str:
        return f"{self.scale * value:{sign}.{2 if self.scale == 100 else 4}f}"

    def _mean(self, row: Row) -> str:
        text = self._number(_mean(row))
        return text if row.deviation is None else f"{text} ± {self._number(row.deviation)}"

    def _gap(self, row: Row) -> Difference | None:
        """The difference to the row that others are compared with; `None` for that row itself."""
        return None if self.against is None or row is self.against else paired(row, self.against)

    def _difference(self, row: Row) -> str:
        """The cell about the difference to the row that others are compared with."""
        gap = self._gap(row)
        if gap is None:
            return "-" if row is self.against else "no seed in common"
        error = "" if gap.error is None else f" ± {self._number(gap.error)}"
        return f"{self._number(gap.mean, '+')}{error} ({gap.pairs})"


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown, whatever its cells hold.

    Args:
        names: of the columns.
        rows: cells, as many as there are columns.

    Example:
        >>> print(markdown(["run"], [["a|b"]]), end="")
        | run |
        | --- |
        | a\|b |
    """
    lines = [names, ["---"] * len(names), *rows]
    text = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in text)


def _mean(row: Row) -> float:
    return sum(row.scores) / len(row.scores)


def _size(row: Row, name: str) -> str:
    """All and live, as `wiring inspect` writes them; means over the runs."""
    size = row.mean_size(name)
    if size is None:
        return "-"
    whole, live = (f"{count:,.0f}" for count in size)
    return whole if whole == live else f"{whole} → {live}"


def _papers(row: Row) -> str:
    """What the papers print for the network of a row; empty if they have no such row."""
    # What ended early did not do what a paper's network did.
    found = [[] if has_other_length(one.run) else published(one.run.config) for one in row.runs]
    if not all(found):
        return ""
    numbers = dict.fromkeys(one.number.rstrip("*") for rows in found for one in rows)
    return "; ".join(numbers)
