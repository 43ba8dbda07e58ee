"""`wiring table RUN...`: what methods score over seeds and what they cost, from run folders."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wiring_lightning.cli.arguments import RUN, RunsParser
from wiring_lightning.files import picture_path

if TYPE_CHECKING:
    from wiring_lightning.cli.run_rows import Row

_DESCRIPTION = f"""\
Compare methods: a row for each, or for each value of any key of the config.

{RUN} Runs with the same name in the rows' keys are one row.
Each row has the number of runs, the best, the mean and the sample standard deviation of the last
logged test/acc, and what the trained network costs, as `wiring inspect` counts it: all
of it → what is live. Accuracies are in percent.

Differences are paired: for every seed_everything that both rows have, the difference of the two
runs; of these the mean and its standard error. If a run did what a row of the papers' tables does
(docs/methods), their number stands beside it.

Runs that are not finished, or whose score is NaN or infinite, are named and left out. Runs that
differ in their data, epochs or code version do not belong into one table; --mix makes one and says
so below it.
"""
_EXAMPLES = """\
examples:
  wiring table lightning_logs/version_*
  wiring table runs/* --by model.backbone.fan_in --against 1
  wiring table runs/* --by method --by data.batch_size --csv table.csv --picture table.png
"""


def run(arguments: Sequence[str]) -> None:
    """Print the table, and write it as CSV and as a picture if asked to.

    Raises:
        RunError: if a folder is no run or lacks the score, if no run has the key, if there is no
            such row, or if the runs differ in what they should have in common.
        CheckpointError: if a checkpoint cannot be read.
        FileExistsError: if a file is there already.
        ValueError: if the ending of the picture is none of a picture.
    """
    given = parse(arguments)  # before torch is loaded
    from wiring_lightning.cli.comparable import different_tables, refuse_different
    from wiring_lightning.cli.messages import note
    from wiring_lightning.cli.run_keys import check_known
    from wiring_lightning.cli.run_rows import METHOD, make_rows, read_scored
    from wiring_lightning.cli.run_steps import costs_apart
    from wiring_lightning.cli.table_text import Table
    from wiring_lightning.files import check_outputs, check_picture, write_file
    from wiring_lightning.plots import draw_seeds, save_figure

    check_outputs([file for file in [given.csv] if file], "--csv", given.overwrite)
    if given.picture:
        check_picture(given.picture, "--picture", given.overwrite)
    keys = list(dict.fromkeys(given.by or [METHOD]))
    scored = read_scored(given.runs, given.score, given.trust)
    for key in keys:
        if key != METHOD:
            check_known([one.run.config for one in scored], key)
    mix = different_tables([one.run for one in scored], keys, given.score)
    refuse_different(mix, given.mix)
    rows = make_rows(scored, keys)
    table = Table(keys, rows, given.score, _against(rows, given.against))
    print(table.markdown())  # before anything is written: a full disk must not lose it
    apart = costs_apart([one.run for one in scored if one.sizes is not None], given.score)
    for text in [f"The runs differ in {mix}." if mix else None, *table.notes, apart]:
        if text:
            print(f"{text}\n")
    if any(one.sizes is None for one in scored):
        note("sizes are left out of runs without a checkpoint, or of a network that needs --trust")
    if given.csv:
        write_file(given.csv, table.csv().encode())
    if given.picture:
        scores = {row.label: [table.scale * score for score in row.scores] for row in rows}
        save_figure(draw_seeds(scores, table.unit), given.picture)


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the arguments; help and bad arguments end the process.

    Example:
        >>> given = parse(["a", "b", "--by", "model.backbone.fan_in"])
        >>> given.by, given.score, given.mix
        (['model.backbone.fan_in'], 'test/acc', False)
    """
    parser = RunsParser("table", _DESCRIPTION, _EXAMPLES)
    parser.add_runs("+")
    what = (
        "a key of the config, such as model.backbone.fan_in or trainer.callbacks.MaskConnect.lr, "
        "or `method`: backbone, wiring and learner (default); several --by make several columns"
    )
    parser.add_argument("--by", action="append", metavar="KEY", help=what)
    what = "the row that the others are compared with, by its name (default: the first)"
    parser.add_argument("--against", metavar="ROW", help=what)
    what = "the number that counts, by its name in the logs (default: test/acc)"
    parser.add_argument("--score", default="test/acc", metavar="NAME", help=what)
    parser.add_mix("data, epochs or code version")
    parser.add_trust()
    what = "write the table with all digits and the score of every seed"
    parser.add_argument("--csv", metavar="FILE", type=Path, help=what)
    what = "draw the scores of all runs, .png, .pdf or .svg"
    parser.add_argument("--picture", metavar="FILE", type=picture_path, help=what)
    parser.add_overwrite()
    return parser.parse_args(arguments)


def _against(rows: Sequence["Row"], name: str | None) -> "Row | None":
    """The row to compare with: the one of that name, or the only one whose name holds it.

    Raises:
        RunError: if there is none, or more than one.
    """
    from wiring_lightning.cli.runs import RunError

    if name is None:
        return rows[0] if len(rows) > 1 else None
    found = [row for row in rows if row.label == name] or [row for row in rows if name in row.label]
    if len(found) != 1:
        names = "; ".join(row.label for row in rows)
        count = "No row has" if not found else f"{len(found)} rows have"
        raise RunError(f"{count} the name {name}: give --against one of {names}.")
    return found[0]
