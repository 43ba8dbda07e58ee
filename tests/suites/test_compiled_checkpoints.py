"""A compiled network is saved, resumed and compacted under the names of the plain one."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.methods import METHODS, Method, digits, named, over
from tests.shallow import shallow
from tests.trainers import quiet_trainer, same_state
from wiring_lightning.tasks import ClassificationTask

# One of each family of networks.
FAMILIES = [
    shallow(named(name))
    for name in ("resnext-learned", "resnet-learned", "densenet-learned", "neural-graph",
                 "mobilenet-dnw", "sparsenet", "conv-fabric")
]  # fmt: skip
# One of each kind of learner: scores of gates, weights of a graph, and edges that are drawn.
LEARNERS = [
    method
    for method in FAMILIES
    if method.name in ("resnet-learned", "neural-graph", "conv-fabric")
]
COMPILE = {"backend": "eager"}  # traced and guarded as with any backend


def train(method: Method, folder: Path, resume: Path | None = None) -> ClassificationTask:
    torch._dynamo.reset()
    torch.manual_seed(1 if resume else 0)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = quiet_trainer(
        callbacks=[*method.new_callbacks(), *([] if resume else [saver])],
        enable_checkpointing=resume is None,
        limit_train_batches=4,
    )
    task = method.task(compile=COMPILE)
    trainer.fit(task, digits(), ckpt_path=resume)
    return task


@pytest.mark.slow
@over(LEARNERS)
def test_a_compiled_run_resumes_and_its_file_is_that_of_a_plain_network(
    method: Method, tmp_path: Path
) -> None:
    whole = train(method, tmp_path)
    assert same_state(train(method, tmp_path, tmp_path / "step=2.ckpt").state_dict(),
                      whole.state_dict())  # fmt: skip
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in saved)
    plain = method.task()
    assert saved.keys() == plain.state_dict().keys()
    plain.load_state_dict(saved)
    _same_function(plain, whole)


@over(FAMILIES)
def test_compact_of_a_compiled_network_is_a_plain_one(method: Method) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    task, plain = method.task(compile=COMPILE), method.task()
    plain.load_state_dict(task.state_dict())
    images = torch.randn(3, 1, 8, 8)
    if method.name == "resnet-learned":
        torch.testing.assert_close(task.eval()(images), plain.eval()(images))  # compiles
    ours, theirs = task.backbone.compact(), plain.backbone.compact()
    assert ours._compiled_call_impl is None
    assert same_state(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours(images), plain.eval()(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_compiling_renames_nothing(method: Method) -> None:
    names, compiled = (
        [name for name, _ in (*task.named_parameters(), *task.named_buffers())]
        for task in (method.task(), method.task(compile=COMPILE))
    )
    assert names == compiled


def _same_function(first: ClassificationTask, second: ClassificationTask) -> None:
    images: Tensor = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(first.eval()(images), second.eval()(images), atol=1e-5, rtol=1e-4)
