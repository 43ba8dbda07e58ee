"""A batch loader that agrees with a trainer on where in the training it is."""

from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from typing_extensions import override

from wiring_lightning.data.loader import BatchLoader


class TrainLoader(BatchLoader):
    """The loader of a trainer's ``fit``: takes its position from the trainer's own counters.

    A plain :class:`BatchLoader` resumes exactly from checkpoints written between two steps. Two
    cases need to know more than it is told:

    * A checkpoint written because a training step failed counts as many batches as were *used*;
      the batch of the failed step was handed out already and has to come again.
    * With ``max_steps``, a run that resumes from the end of an epoch is told the wrong epoch:
      Lightning counts the epoch that it closes twice in the number it gives to ``set_epoch``,
      once in ``trainer.current_epoch``.

    Args:
        trainer: The trainer that iterates over the loader, or None to be a plain loader.
        images: Bytes, shape [N, C, H, W].
        labels: Class indices, int64 of shape [N], or masks, uint8 of shape [N, H, W].
        batch_size: Samples per batch of this process.
        options: The keyword arguments of :class:`BatchLoader`.
    """

    def __init__(
        self,
        trainer: Trainer | None,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        **options: Any,
    ) -> None:
        super().__init__(images, labels, batch_size, **options)
        self.trainer = trainer

    @override
    def set_epoch(self, epoch: int) -> None:
        """Choose the trainer's current epoch, whatever ``epoch`` says, if there is a trainer."""
        super().set_epoch(epoch if self.trainer is None else self.trainer.current_epoch)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch whose training step has ended."""
        state = super().state_dict()
        if self.trainer is not None:
            progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
            # At the start of an epoch the trainer's count is still that of the previous one.
            state["batches"] = min(state["batches"], progress.processed)
        return state
