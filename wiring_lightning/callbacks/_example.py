"""One example of a fit, to count the multiply-adds of the network that it trains."""

from typing import Any

import torch
from lightning.fabric.utilities.apply_func import apply_to_collection
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from wiring_lightning.costs.layers import first_example, known_multiply_adds


class CountedOnce:
    """The multiply-adds of each weight, from the first example that is there.

    It is, in this order: the first of the `example_input_array` of the LightningModule, an image of
    the size that the data module tells (`image_shape`), or the first example of the first batch.
    Of some networks with a wiring they are not known, see `costs.layers.known_multiply_adds`.

    Args:
        name: what asks, for a message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: dict[nn.Parameter, int | None] | None = None
        self._first: Any = None
        self._failed = False  # then nothing is tried again

    @property
    def wants_batch(self) -> bool:
        """Whether an example of a batch could still help."""
        return self.counts is None and self._first is None and not self._failed

    def keep(self, batch: Any) -> None:
        """Keep the first example of a batch: a tensor, or the first part of a tuple or list."""
        inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
        if isinstance(inputs, Tensor) and inputs.dim() and len(inputs):
            self._first = inputs[:1].detach().clone()
        else:
            self._failed = True

    def count(self, trainer: Trainer, module: LightningModule) -> None:
        """Count, if it is not done yet and an example is known. All ranks must call it."""
        if self.counts is not None or self._failed:
            return
        if type(module).forward is LightningModule.forward:
            return  # the network is called by other names
        example = _known_example(trainer, module)
        example = self._first if example is None else example
        if example is None:
            return
        try:
            self.counts = known_multiply_adds(module, _fitting(example, module))
            self._failed = self.counts is None
        except Exception as error:  # the forward pass is the user's, and may want anything
            self._failed = True
            first_line = str(error).strip().partition("\n")[0]
            rank_zero_info(
                f"{self.name}: multiply-adds are not known, because {type(module).__name__} did "
                f"not take an example of the data ({type(error).__name__}: {first_line}). Set its "
                "attribute example_input_array."
            )


def _known_example(trainer: Trainer, module: LightningModule) -> Any:
    if module.example_input_array is not None:
        return first_example(module.example_input_array)
    shape = getattr(getattr(trainer, "datamodule", None), "image_shape", None)
    return None if shape is None else torch.zeros(1, *shape, device="cpu")


def _fitting(example: Any, module: LightningModule) -> Any:
    """An example on the device of the module, and in its precision."""
    precise = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

    def fit(tensor: Tensor) -> Tensor:
        return tensor.to(module.device, precise if tensor.is_floating_point() else tensor.dtype)

    return apply_to_collection(example, Tensor, fit)
