"""Networks side by side: each learns as it would alone, and each is measured."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from tests.trainers import quiet_trainer, same_state
from wiring_lightning.backbones import GatedHeads, ResNeXt
from wiring_lightning.callbacks import MaskConnect
from wiring_lightning.data import DigitSums
from wiring_lightning.tasks import ClassificationTask, WiringComparison

OPTIMIZER = partial(SGD, lr=0.05, momentum=0.9)


def data() -> DigitSums:
    return DigitSums(batch_size=32, size=96)


def new_task() -> WiringComparison:
    seed_everything(0, verbose=False)
    return WiringComparison(GatedHeads(), OPTIMIZER)


def plain_fit(network: nn.Module, epochs: int) -> None:
    """The loop that everybody knows, on the same batches."""
    module = data()
    module.setup("fit")
    loader, optimizer = module.train_dataloader(), OPTIMIZER(network.parameters())
    network.train()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()


@pytest.mark.parametrize("name", ["random", "planted"])
def test_a_twin_learns_as_it_would_alone(name: str) -> None:
    task, alone = new_task(), new_task().twins[name]
    assert same_state(task.twins[name].state_dict(), alone.state_dict())
    quiet_trainer(max_epochs=2, callbacks=[MaskConnect()]).fit(task, data())
    plain_fit(alone, 2)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(task.twins[name].state_dict()[key], value, msg=key)


def test_the_backbone_learns_as_it_would_alone() -> None:
    task = new_task()
    quiet_trainer(max_epochs=2, callbacks=[MaskConnect(lr=0.5)]).fit(task, data())
    seed_everything(0, verbose=False)
    alone = ClassificationTask(GatedHeads(), OPTIMIZER)
    quiet_trainer(max_epochs=2, callbacks=[MaskConnect(lr=0.5)]).fit(alone, data())
    for key, value in alone.backbone.state_dict().items():
        torch.testing.assert_close(task.backbone.state_dict()[key], value, msg=key)


def test_a_resumed_run_has_the_same_networks_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    options = {"max_epochs": 2, "default_root_dir": tmp_path, "enable_checkpointing": True}
    whole = new_task()
    quiet_trainer(callbacks=[MaskConnect(lr=0.5), saver], **options).fit(whole, data())
    seed_everything(7, verbose=False)  # another random wiring, which the checkpoint replaces
    task = WiringComparison(GatedHeads(), OPTIMIZER)
    random = "twins.random.gates.heads.active"
    assert not torch.equal(task.state_dict()[random], whole.state_dict()[random])
    trainer = quiet_trainer(callbacks=[MaskConnect(lr=0.5), saver], **options)
    trainer.fit(task, data(), ckpt_path=tmp_path / "step=4.ckpt")  # inside the second epoch
    assert same_state(task.state_dict(), whole.state_dict())


def test_every_network_is_measured() -> None:
    task, module = new_task(), data()
    trainer = quiet_trainer(callbacks=[MaskConnect()])
    trainer.fit(task, module)
    (found,) = trainer.test(task, module, verbose=False)
    images, labels = zip(*module.test_dataloader(), strict=True)
    labels = torch.cat(labels)
    networks = {"acc": task.backbone, **{f"acc_{n}": twin for n, twin in task.twins.items()}}
    with torch.no_grad():
        logits = {
            n: torch.cat([one.eval()(part) for part in images]) for n, one in networks.items()
        }
    for name, answers in logits.items():
        right = [
            int(answers[example, :, head].argmax()) == int(labels[example, head])
            for example in range(len(labels))
            for head in range(8)
        ]
        assert found[f"test/{name}"] == pytest.approx(sum(right) / len(right), abs=1e-6)
    shares = [float((labels == answer).float().mean()) for answer in range(19)]
    assert found["test/acc_constant"] == pytest.approx(max(shares), abs=1e-6)
    log_share = logits["acc"].double().log_softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert found["test/loss"] == pytest.approx(-float(log_share.mean()), rel=1e-5)


def test_several_labels_are_one_example_for_classification_too() -> None:
    task, module = ClassificationTask(GatedHeads()), data()
    trainer = quiet_trainer(callbacks=[MaskConnect()])
    trainer.fit(task, module)
    (found,) = trainer.test(task, module, verbose=False)
    task.eval()
    with torch.no_grad():
        pairs = [(task(images), labels) for images, labels in module.test_dataloader()]
        chances = task.predict_step(next(iter(module.test_dataloader())), 0)
    loss = functional.cross_entropy(*map(torch.cat, zip(*pairs, strict=True)))
    assert found["test/loss"] == pytest.approx(float(loss), rel=1e-5)
    torch.testing.assert_close(chances.sum(1), torch.ones(len(chances), 8))


def test_a_network_without_a_right_wiring_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match="ResNeXt has no `planted_wiring`"):
        WiringComparison(ResNeXt(depth=11, fan_in=2))


@pytest.mark.parametrize("options", [{"wiring_seed": 1}, {"sums": 4}])
def test_data_of_another_wiring_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(MisconfigurationException, match="the same wiring_seed"):
        quiet_trainer(callbacks=[MaskConnect()]).fit(new_task(), DigitSums(size=64, **options))
