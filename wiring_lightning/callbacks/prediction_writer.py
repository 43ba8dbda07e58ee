"""Save predictions to a file."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from wiring_lightning.files import write_file, write_new_file


class PredictionWriter(BasePredictionWriter):
    """Save the model's predictions as one tensor, in the order of the images.

    `wiring predict` uses it unless the config names another `BasePredictionWriter`. With several
    processes, each writes its share of the predictions to its own file.

    Args:
        path: file to write, for `torch.load`; `predictions.pt` in the run's folder if not given,
            with a number behind it if there is one already.
        overwrite: whether a file at `path` may be replaced.

    Raises:
        MisconfigurationException: before anything is predicted, if `path` is there already.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionWriter("probabilities.pt")], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, path: str | None = None, overwrite: bool = False) -> None:
        super().__init__(write_interval="epoch")
        self.path = path
        self.overwrite = overwrite

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict" or self.path is None or self.overwrite:
            return
        path = _of_rank(Path(self.path), trainer)
        if path.exists():
            raise MisconfigurationException(
                f"PredictionWriter: {path} is there already; name another path, or set "
                "overwrite=True to replace it."
            )

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # all ranks take part in log_dir
        path = _of_rank(Path(self.path or Path(folder) / "predictions.pt"), trainer)
        batches = [batch for batch in predictions if isinstance(batch, Tensor)]
        stacked = torch.cat([batch.cpu() for batch in batches])
        content = BytesIO()
        torch.save(stacked, content)
        if self.path is None:
            path = write_new_file(path, content.getbuffer())
        else:
            write_file(path, content.getbuffer())
        rank_zero_info(f"predictions {list(stacked.shape)}: {path}")


def _of_rank(path: Path, trainer: Trainer) -> Path:
    if trainer.world_size == 1:
        return path
    return path.with_stem(f"{path.stem}_{trainer.global_rank}")
