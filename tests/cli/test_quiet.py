"""A new user sees no line that is not about their run: real commands, in processes of their own."""

import logging
import re
import warnings
from contextlib import nullcontext

import pytest
import torch
from lightning.fabric.utilities.distributed import _all_gather_ddp_if_available

from tests.cli.commands import process
from wiring_lightning.cli import commands
from wiring_lightning.cli.quiet import quiet

# Every subcommand, a resumed run, data without validation images, and phases without `max_epochs`;
# behind a line of its own the commands that libraries have something to say about, unfiltered.
SCRIPT = """
import contextlib, sys
from pathlib import Path
from tests.cli.commands import BASE, checkpoint_in, write
from wiring_lightning.cli import commands, main

trainer = {**BASE["trainer"], "limit_train_batches": 2, "limit_val_batches": 1.0}
trainer |= {"limit_test_batches": 2, "limit_predict_batches": 2}
del trainer["max_epochs"]
phases = [{"epochs": 1}, {"epochs": 1, "freeze": True}]
trainer["callbacks"] = [
    *trainer["callbacks"],
    {"class_path": "PhaseSchedule", "init_args": {"phases": phases}},
    {"class_path": "WiringMonitor"},
]
data = {**BASE["data"], "init_args": {**BASE["data"]["init_args"], "val_size": 0}}
write({**BASE, "trainer": trainer}, Path("base.yaml"))
write({**BASE, "trainer": trainer, "data": data}, Path("no_validation.yaml"))

base = ["--config", "base.yaml"]
main(["fit", *base])
checkpoint = ["--ckpt_path", str(checkpoint_in(Path.cwd()))]
main(["fit", *base, *checkpoint, "--trainer.max_epochs=3"])
for name in ("validate", "test", "predict", "inspect"):
    main([name, *base, *checkpoint])
main(["fit", "--config", "no_validation.yaml"])
for stream in (sys.stdout, sys.stderr):
    print("\\nunfiltered", file=stream, flush=True)
commands.quiet = contextlib.nullcontext
main(["fit", "--config", "no_validation.yaml", *checkpoint, "--trainer.max_epochs=3"])
main(["predict", *base, *checkpoint])
"""
LOGGER = "lightning.pytorch.utilities.rank_zero"
NOISE = {
    "1000 epochs": r"`max_epochs` was not set",
    "advertisement": r"litlogger|litmodels",
    "folder of checkpoints": r"dirpath has changed",
    "no validation": r"[Tt]otal length of `list`",
    "batch indices": r"infer the batch indices",
    "device": r"TPU available",
}


@pytest.fixture(scope="module")
def said_and_unfiltered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What the commands say to a user, and what they would say."""
    running = process("-c", SCRIPT, folder=tmp_path_factory.mktemp("quiet"))
    texts = running.communicate()
    assert running.returncode == 0, texts[1]
    parts = [text.partition("\nunfiltered\n") for text in texts]
    return "".join(part[0] for part in parts), "".join(part[2] for part in parts)


@pytest.mark.slow
def test_no_command_says_what_is_not_about_the_run(said_and_unfiltered: tuple[str, str]) -> None:
    said, _ = said_and_unfiltered
    for what, line in NOISE.items():
        assert not re.search(line, said), what
    assert "LeafSpec" not in said  # torch 2.11 does not warn of it yet
    # Warnings stand behind a file and a line, or behind the name of their class.
    assert not re.findall(r"^.*(?:\.py:\d+: |Warning|deprecated).*$", said, re.MULTILINE)
    assert "MaskConnect: 2 gates" in said  # what is about the run is there
    assert "Phase 2 of 2" in said


@pytest.mark.slow
def test_what_is_left_out_would_be_said(said_and_unfiltered: tuple[str, str]) -> None:
    """So that no filter stays longer than its reason."""
    _, said = said_and_unfiltered
    # Without an entry of its own in `quiet`: the command gives the trainer a number of epochs.
    for what, line in NOISE.items():
        assert what == "1000 epochs" or re.search(line, said), what


def test_other_warnings_are_shown_and_nothing_stays_silent_afterwards() -> None:
    noise = "The dirpath has changed from 'a' to 'b'."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn(noise, stacklevel=1)
            warnings.warn(f"I say: {noise}", stacklevel=1)
            warnings.warn("Total length of `DataLoader` across ranks is zero.", stacklevel=1)
        warnings.warn(noise, stacklevel=1)
    assert [str(one.message)[:9] for one in caught] == ["I say: Th", "Total len", "The dirpa"]


def test_gathering_what_processes_predicted_is_quiet() -> None:
    def gathered() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with quiet() if silent else nullcontext():
                (alone,) = _all_gather_ddp_if_available(torch.ones(2))
        assert torch.equal(alone, torch.ones(2))
        return [str(one.message) for one in caught if "all_gather" in str(one.message)]

    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        for silent in (True, False):
            said = gathered()
            assert not (silent and said)
    finally:
        torch.distributed.destroy_process_group()
    assert said or torch.__version__ < "2.14"  # older releases do not warn of it


@pytest.mark.parametrize("name", ["lightning.pytorch", "lightning.fabric"])
def test_other_lines_are_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(f"{name}.utilities.rank_zero")
    tip = "💡 Tip: For seamless cloud logging, try installing [litlogger](https://...)."
    with caplog.at_level("INFO", logger=logger.name):
        logger.addHandler(caplog.handler)  # Lightning's loggers hand nothing on
        try:
            with quiet():
                logger.info(tip)
                logger.info("TPU available: False, using: 0 TPU cores")
                logger.info("GPU available: True (cuda), used: True")
            logger.info(tip)
        finally:
            logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == ["GPU available: True (cuda), used: True", tip]


def test_the_command_line_is_quiet_and_the_library_is_not() -> None:
    assert commands.quiet is quiet
    before, after = list(warnings.filters), logging.getLogger(LOGGER).filters
    with pytest.raises(KeyboardInterrupt), quiet():
        raise KeyboardInterrupt
    assert list(warnings.filters) == before
    assert logging.getLogger(LOGGER).filters == after == []
