"""Save predictions to a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override


class PredictionWriter(BasePredictionWriter):
    """Save the model's predictions as one tensor, in the order of the images.

    `wiring predict` uses it unless the config names another `BasePredictionWriter`. With several
    processes, each writes its share of the predictions to its own file.

    Args:
        path: file to write, for `torch.load`; `predictions.pt` in the run's folder if not given.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionWriter("probabilities.pt")], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(write_interval="epoch")
        self.path = path

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # all ranks take part in log_dir
        path = Path(self.path or Path(folder) / "predictions.pt")
        if trainer.world_size > 1:
            path = path.with_stem(f"{path.stem}_{trainer.global_rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        batches = [batch for batch in predictions if isinstance(batch, Tensor)]
        stacked = torch.cat([batch.cpu() for batch in batches])
        torch.save(stacked, path)
        rank_zero_info(f"predictions {list(stacked.shape)}: {path}")
