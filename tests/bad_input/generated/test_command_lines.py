"""Every spoilt command line, and every command on a spoilt run, ends in one sentence or well."""

from pathlib import Path

import pytest

from tests.bad_input.draws import draws
from tests.bad_input.generated.case import Batch, batches
from tests.bad_input.generated.command_lines import command_lines
from tests.bad_input.generated.runs import spoilt_runs

BATCHES = [*batches(command_lines, draws(100), seed=3), *batches(spoilt_runs, draws(50), seed=4)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES, ids=range(len(BATCHES)))
def test_a_spoilt_command_ends_in_one_sentence(batch: Batch, tmp_path: Path) -> None:
    batch.check(tmp_path)
