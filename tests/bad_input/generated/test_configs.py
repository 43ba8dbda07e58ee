"""Every spoilt config ends in one sentence, or does what it says."""

from pathlib import Path

import pytest

from tests.bad_input.draws import draws
from tests.bad_input.generated.case import Batch, batches
from tests.bad_input.generated.configs import spoilt_files, spoilt_values

BATCHES = [*batches(spoilt_values, draws(200), seed=1), *batches(spoilt_files, draws(50), seed=2)]


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES, ids=range(len(BATCHES)))
def test_a_spoilt_config_ends_in_one_sentence(batch: Batch, tmp_path: Path) -> None:
    batch.check(tmp_path)
