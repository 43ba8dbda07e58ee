"""Settings of every test: no window for pictures, one thread, one seed."""

import os

import pytest
import torch

os.environ["MPLBACKEND"] = "Agg"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
