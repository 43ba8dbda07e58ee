"""What several tests of pictures need."""

import pytest

from tests.plots.wirings import WIRINGS
from wiring_lightning.wiring import Wiring


@pytest.fixture(params=WIRINGS, name="wiring")
def any_wiring(request) -> Wiring:
    return WIRINGS[request.param]()
