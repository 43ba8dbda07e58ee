"""Networks that give a tuple, a mapping or an object: the task finds the logits, or says so."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trainers import quiet_trainer
from wiring_lightning.backbones import timm_models, torchvision_models
from wiring_lightning.data import Digits
from wiring_lightning.nn.outputs import find_outputs
from wiring_lightning.tasks import ClassificationTask, SegmentationTask

LOGITS, HIDDEN = torch.arange(6.0).view(2, 3), torch.ones(2, 5)
Named = namedtuple("Named", ["logits", "aux_logits2", "aux_logits1"])


@dataclass
class Answer:
    loss: Tensor | None
    logits: Tensor


class Computed:
    """Its logits are computed when they are asked for."""

    logits = property(lambda self: LOGITS)


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class ModelOutput(OrderedDict[str, Tensor]):
    """A mapping with attributes, as in transformers."""


@pytest.mark.parametrize(
    ("answer", "auxiliary"),
    [
        (LOGITS, 0),
        ((LOGITS, HIDDEN), 0),
        ([LOGITS], 0),
        ({"out": LOGITS, "aux": HIDDEN}, 1),
        ({"aux": HIDDEN, "logits": LOGITS}, 1),
        (ModelOutput(logits=LOGITS, hidden_states=HIDDEN), 0),
        (Named(LOGITS, HIDDEN, HIDDEN), 2),
        (Named(LOGITS, None, None), 0),
        (Answer(None, LOGITS), 0),
        (SimpleNamespace(logits=LOGITS), 0),
        (Computed(), 0),
        (Slotted(LOGITS), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_logits_are_found(answer: Any, auxiliary: int) -> None:
    found = find_outputs(answer, "Net")
    assert found.logits is LOGITS
    assert len(found.auxiliary) == auxiliary


@pytest.mark.parametrize(
    "answer",
    [None, (), ("text", LOGITS), {"boxes": LOGITS}, Named(None, LOGITS, LOGITS), 3, {"out": None}],
    ids=repr,
)
def test_what_is_missing_is_said(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"^Net gives an? .*the logits must be.*\.$") as said:
        find_outputs(answer, "Net")
    assert "\n" not in str(said.value)


class Three(nn.Module):
    """Classes from the mean brightness, with two more answers in training."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 10))

    def forward(self, images: Tensor) -> Any:
        answers = images.mean((1, 2, 3))[:, None, None] * self.weights
        return Named(*answers.unbind(1)) if self.training else answers[:, 0]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_auxiliary_losses_count_in_training_only(weight: float) -> None:
    seen: list[Tensor] = []

    class Still(ClassificationTask):
        def configure_optimizers(self) -> None:
            """Nothing moves."""

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.extend([outputs["loss"], *batch])

    network = Three()
    task = Still(network, auxiliary_weight=weight)
    trainer = quiet_trainer(limit_train_batches=1, limit_val_batches=1)
    trainer.fit(task, Digits(batch_size=16))
    loss, images, labels = seen
    logits = images.double().mean((1, 2, 3))[:, None, None] * network.weights.detach().double()
    each = [functional.cross_entropy(one, labels) for one in logits.unbind(1)]
    expected = each[0] + weight * (each[1] + each[2])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    [metrics] = trainer.validate(task, Digits(batch_size=200), verbose=False)
    images, labels = next(iter(trainer.datamodule.val_dataloader()))
    expected = functional.cross_entropy(task.eval()(images), labels)
    assert metrics["val/loss"] == pytest.approx(float(expected), rel=1e-5)


def trains(task: Any, labels: Callable[[Tensor], Tensor], size: int) -> float:
    task.train()
    task.log = task.log_dict = lambda *_, **__: None
    images = torch.randn(2, 3, size, size)
    loss = task._step((images, labels(images)), "train").mean()
    loss.backward()
    assert all(weight.grad is not None for weight in task.parameters())
    return float(loss)


@pytest.mark.filterwarnings("ignore:.*weight initialization")
def test_googlenet_trains_with_its_auxiliary_classifiers() -> None:
    network = torchvision_models.googlenet(num_classes=4, init_weights=False)
    task = ClassificationTask(network)
    assert task.num_classes == 4
    trains(task, lambda images: torch.tensor([0, 3]), 64)


def test_a_segmentation_network_of_torchvision_trains() -> None:
    network = torchvision_models.lraspp_mobilenet_v3_large(num_classes=3)
    task = SegmentationTask(network)
    assert task.num_classes == 3
    trains(task, lambda images: images[:, 0].gt(0).long(), 32)


def test_the_classes_of_a_transformer_are_read_from_its_config() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 7))
    network.config = SimpleNamespace(num_labels=5)  # type: ignore[assignment]
    assert ClassificationTask(network).num_classes == 5


TOO_SMALL = {
    "torchvision:alexnet": ("AlexNet", "Output size is too small"),
    "torchvision:vit_b_32": ("VisionTransformer", "Wrong image height! Expected 224 but got 8!"),
    "timm:test_vit": ("VisionTransformer", "Input height (8)"),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TOO_SMALL)
def test_images_that_a_library_refuses_are_named(name: str, training: bool) -> None:
    library, _, network = name.partition(":")
    if library == "timm":
        pytest.importorskip("timm")
    models = {"timm": timm_models, "torchvision": torchvision_models}[library]
    with torch.device("meta"):
        task = ClassificationTask(models.builder(network)(num_classes=4)).train(training)
        images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(RuntimeError) as caught:
        task(images)
    owner, said = TOO_SMALL[name]
    assert str(caught.value).startswith(f"{owner} cannot compute images of shape [3, 8, 8]: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


class OwnNetwork(nn.Module):
    """Code of a user: what it raises is for its author."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.head = error, nn.Linear(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", [AssertionError, RuntimeError, KeyError])
def test_errors_of_own_code_stay_as_they_are(kind: type[Exception], inside: bool) -> None:
    error = kind("mine")
    own = OwnNetwork(error)
    task = ClassificationTask(nn.Sequential(nn.ReLU(), own) if inside else own)
    with pytest.raises(kind) as caught:
        task(torch.zeros(2, 3, 8, 8))
    assert caught.value is error


def test_an_error_about_memory_stays_one() -> None:
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    network[0].register_forward_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        ClassificationTask(network)(torch.zeros(2, 3, 8, 8))
