"""A fit that goes on with the same trainer, and what it must not go on with."""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.optim import SGD

from tests.callbacks.reader import Gated, Reader, batches
from tests.callbacks.test_combinations import AGAIN, count
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.callbacks import (
    ACDC,
    DNW,
    SET,
    GradualPruning,
    MaskConnect,
    RandomEdges,
    RigL,
)

GOES_ON: dict[str, Callable[[], Callback]] = {
    **AGAIN,
    "DNW, falling": lambda: DNW(density=0.25, initial_density=1.0),
    "RigL": lambda: RigL(density=0.25, delta_t=2),
    "SET": lambda: SET(density=0.25),
    "GradualPruning": lambda: GradualPruning(density=0.25, every=2),
    "MaskConnect": lambda: MaskConnect(lr=0.5),
}


def start(folder: Path, *callbacks: Callback) -> tuple[Trainer, Reader]:
    """A trainer after two epochs, without momentum, which a new optimizer would not have."""
    saver = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(callbacks=[*callbacks, saver], max_epochs=2, enable_checkpointing=True)
    make = partial(SGD, lr=0.3)
    module = Gated() if isinstance(callbacks[0], MaskConnect) else Reader(make)
    trainer.fit(module, DATA)
    trainer.fit_loop.max_epochs = 4
    return trainer, module


DATA = torch.utils.data.DataLoader(batches(4, torch.float32), batch_size=None)


@pytest.mark.parametrize("name", GOES_ON)
def test_a_fit_that_goes_on_is_as_one_that_resumes_from_its_last_checkpoint(
    name: str, tmp_path: Path
) -> None:
    trainer, module = start(tmp_path, GOES_ON[name]())
    trainer.fit(module, DATA)
    resumed = type(module)() if name == "MaskConnect" else Reader(partial(SGD, lr=0.3))
    again = quiet_trainer(callbacks=[GOES_ON[name]()], max_epochs=4)
    again.fit(resumed, DATA, ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
    assert same_state(module.state_dict(), resumed.state_dict())
    assert trainer.current_epoch == 4
    assert name == "MaskConnect" or count(module.body[1]) == 288


def test_a_fit_does_not_go_on_with_weights_that_something_else_wrote(tmp_path: Path) -> None:
    message = "RigL: the trainer goes on after step 8, but something has changed the weights since"
    trainer, module = start(tmp_path, RigL(density=0.25), EMAWeightAveraging(decay=0.5))
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, DATA)
    trainer, module = start(tmp_path / "other", RigL(density=0.25))
    with torch.no_grad():
        module.head.weight.mul_(2)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, DATA)
    assert same_state(module.state_dict(), before)
    other = Reader()  # another network is a new fit, and so is one from a checkpoint
    trainer.fit(other, DATA)
    trainer.fit(module, DATA, ckpt_path=tmp_path / "other" / "epoch=0.ckpt", weights_only=True)
    assert count(module.body[1]) == count(other.body[1]) == 288


def test_gates_go_on_after_the_network_has_left_its_device(tmp_path: Path) -> None:
    trainer, module = start(tmp_path, MaskConnect(lr=0.5))
    module._apply(torch.clone)  # as `module.cpu()` after a fit on a GPU
    trainer.fit(module, DATA)
    assert trainer.current_epoch == 4


@pytest.mark.parametrize("frozen", [False, True])
def test_gates_do_not_go_on_with_the_values_of_a_checkpoint(frozen: bool, tmp_path: Path) -> None:
    """Also not with those of a moment before the freeze."""

    class Tested(Gated):
        test_step = Gated.training_step

    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    learner, module = MaskConnect(lr=0.5, freeze_epoch=1 if frozen else None), Tested()
    trainer = quiet_trainer(callbacks=[learner, saver], max_epochs=2, enable_checkpointing=True)
    trainer.fit(module, DATA)
    earlier = tmp_path / "epoch=0.ckpt"
    trainer.test(module, DATA, ckpt_path=earlier, weights_only=True, verbose=False)
    before = copy.deepcopy(module.state_dict())
    trainer.fit_loop.max_epochs = 3
    message = "MaskConnect: the trainer goes on after step 8, but something has changed the weights"
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, DATA)
    assert same_state(module.state_dict(), before)
    trainer.fit(module, DATA, ckpt_path=earlier, weights_only=True)
    assert learner.frozen == frozen


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradualPruning(density=0.25, every=1),
        lambda: ACDC(density=0.25),
        lambda: DNW(density=0.25, initial_density=0.9),
    ],
)
def test_a_fit_that_goes_on_with_its_final_density_is_not_told_that_it_comes_later(
    make: Callable[[], Callback], tmp_path: Path
) -> None:
    """Its epochs are shorter than those by which it counts."""
    trainer, module = start(tmp_path, make())
    short = torch.utils.data.DataLoader(batches(1, torch.float32), batch_size=None)
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.fit(module, short)
    assert count(module.body[1]) == 288
    assert not [one for one in said if "final density" in str(one.message)]


class Tested(Reader):
    test_step = Reader.training_step


@pytest.mark.parametrize("make", [DNW, SET, RandomEdges])
def test_a_checkpoint_of_other_weights_than_the_fit_left_says_so(
    make: Callable[..., Callback], tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer = quiet_trainer(
        callbacks=[make(density=0.25), saver], max_epochs=2, enable_checkpointing=True
    )
    module = Tested()
    trainer.fit(module, DATA)
    message = f"{make.__name__}: something has changed the weights since the fit"
    with warnings.catch_warnings(record=True, action="always") as said:
        trainer.test(module, DATA, verbose=False)
        trainer.save_checkpoint(tmp_path / "same.ckpt")
    assert not [one for one in said if message in str(one.message)]
    earlier = tmp_path / "epoch=0.ckpt"
    trainer.test(module, DATA, ckpt_path=earlier, weights_only=True, verbose=False)
    with pytest.warns(UserWarning, match=message):
        trainer.save_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize("learns", [True, False])
def test_a_layer_that_learns_no_more_or_only_now_is_not_blamed_on_a_checkpoint(
    learns: bool,
) -> None:
    module = Reader(lambda own: SGD([one for one in own if one.requires_grad], lr=0.3))
    module.first.requires_grad_(not learns)
    trainer = quiet_trainer(callbacks=[DNW(density=0.25)], max_epochs=2)
    trainer.fit(module, DATA)
    trainer.fit_loop.max_epochs = 4
    module.first.requires_grad_(learns)
    was, now = (0, 18) if learns else (18, 0)
    message = (
        f"the last fit of this trainer had {was} edges in first, but {now} are asked for now; go "
        "on with the same choice of layers and edges, of which the same learn, or use a new Trainer"
    )
    with pytest.raises(MisconfigurationException, match=message):
        trainer.fit(module, DATA)
