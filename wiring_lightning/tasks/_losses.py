"""The losses of the tasks, chosen by name."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_number
from wiring_lightning.nn.structured import Structured
from wiring_lightning.tasks._metrics import NO_LABEL
from wiring_lightning.tasks._pixel_losses import pixel_losses

LabelLossName = Literal["cross_entropy", "focal"]
PixelLossName = Literal["cross_entropy", "focal", "dice", "dice_cross_entropy"]


class LabelLosses(Structured):
    """The loss of every label: cross-entropy, or the focal loss `(1 - p)^gamma * cross-entropy`.

    Here p is the probability of the right class (Lin et al., Focal Loss for Dense Object
    Detection). The loss of a label is multiplied by the weight of its class. It is not divided by
    the sum of the weights, because it must not depend on the other labels of the batch.

    Args:
        loss: its name.
        num_classes: number of classes.
        class_weights: a weight for each class.
        focal_gamma: the exponent of the focal loss; 2 if not given.
        ignore_index: the label whose loss is 0.
        names: what the task lets `loss` be. All but `"focal"` are the cross-entropy here, such as
            `"dice_cross_entropy"`, to which the task adds the Dice loss itself.

    Raises:
        MisconfigurationException: if a number is out of range, or an option has no effect.

    Example:
        >>> losses = LabelLosses("focal", 2, class_weights=[1.0, 4.0])
        >>> losses(torch.zeros(2, 2), torch.tensor([0, 1]))  # log(2) / 4, and four times that
        tensor([0.1733, 0.6931])
    """

    weights: Tensor | None

    def __init__(
        self,
        loss: str,
        num_classes: int,
        class_weights: Sequence[float] | None = None,
        focal_gamma: float | None = None,
        ignore_index: int | None = None,
        names: Sequence[str] = get_args(LabelLossName),
    ) -> None:
        super().__init__()
        if loss not in names:
            raise MisconfigurationException(
                f"loss must be one of {', '.join(names)}, got {loss!r}."
            )
        if focal_gamma is not None:
            check_number("focal_gamma", focal_gamma, error=MisconfigurationException)
            if loss != "focal":
                raise MisconfigurationException(
                    f"focal_gamma has no effect with loss={loss}: leave it out, or take loss=focal."
                )
        weights = None
        if class_weights is not None:
            _check_class_weights(class_weights, num_classes)
            weights = torch.tensor(class_weights, device="cpu").float()
        self.keep("weights", weights)
        self.gamma = 0.0  # the cross-entropy
        if loss == "focal":
            self.gamma = 2.0 if focal_gamma is None else focal_gamma
        self.ignored = NO_LABEL if ignore_index is None else ignore_index

    @override
    def forward(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """The loss of each label, in the shape of the labels.

        Args:
            logits: `[batch, classes, ...]`.
            labels: `[batch, ...]` numbers of classes, or `ignore_index`.
            smoothing: share of the target that is spread over all classes.
        """
        if smoothing:
            return pixel_losses(logits, labels, self.ignored, self.weights, smoothing)
        losses = pixel_losses(logits, labels, self.ignored)
        factors = None
        if self.gamma:
            # -expm1(-loss) is 1 - p, also where p is close to 1.
            wrong = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
            factors = wrong**self.gamma
        if self.weights is not None:
            known = torch.where(labels == self.ignored, 0, labels)
            weights = self.weights[known].to(losses.dtype)
            factors = weights if factors is None else factors * weights
        return losses if factors is None else losses * factors


def _check_class_weights(class_weights: Sequence[float], num_classes: int) -> None:
    for weight in class_weights:
        check_number("A number of class_weights", weight, error=MisconfigurationException)
    if len(class_weights) != num_classes:
        raise MisconfigurationException(
            f"class_weights has {len(class_weights)} numbers, but there are {num_classes} classes: "
            "give one for each."
        )
    if not any(class_weights):
        raise MisconfigurationException(
            "class_weights are all 0, so there is nothing to learn: give a class a weight above 0."
        )


def dice_losses(ignored: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The Dice loss of each example, by segmentation_models_pytorch.

    It is 1 minus the Dice score of the predicted probabilities, the mean over all classes; classes
    that an example does not have count as 0.

    Args:
        ignored: label of the pixels that are left out.

    Returns:
        A function of logits `[batch, classes, height, width]` and labels `[batch, height, width]`.

    Raises:
        MisconfigurationException: if the library is not installed.
    """
    try:
        from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss
    except ImportError as error:
        raise MisconfigurationException(
            "The Dice loss needs segmentation_models_pytorch: pip install "
            "'wiring_lightning[segmentation]'"
        ) from error
    loss = DiceLoss(MULTICLASS_MODE, ignore_index=ignored)

    def each(logits: Tensor, labels: Tensor) -> Tensor:
        # The library sums over the examples of a batch; here every example has a loss of its own.
        pairs = zip(logits.split(1), labels.split(1), strict=True)
        return torch.stack([loss(one, mask) for one, mask in pairs])

    return each
