"""Save predictions to files."""

from collections.abc import Callable, Sequence
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

from wiring_lightning.callbacks._prediction_table import (
    as_csv,
    as_parquet,
    has_parquet,
    merge_ranks,
    need_parquet,
    table_of,
)
from wiring_lightning.files import check_writable, write_file, write_new_file

Content = bytes | memoryview


class PredictionWriter(BasePredictionWriter):
    """Save the model's predictions as one tensor, and as a table if the images have names.

    `wiring predict` uses it unless the config names another `BasePredictionWriter`.

    A data module whose attribute `predict_names` has the names of the images, such as
    `data.ImageFolder`, gets a table of the class probabilities: `predictions.csv`, and
    `predictions.parquet` if pyarrow is installed (the extra `tables`). A row has the `file`, the
    true `label` if the data module knows it (`predict_labels`), the most probable `class`, its
    `probability`, and the probability of every class as `p_NAME`. Classes have the names that the
    data module has in `class_names`, or their numbers. Rows are in the order of the images, on any
    number of processes.

    Of other data modules, each of several processes writes its share to its own file.

    Args:
        path: file to write instead: a table if it ends in `.csv` or `.parquet`, a tensor for
            `torch.load` if it ends in `.pt` or `.pth`. If not given, all of them are written in the
            run's folder under the names above and `predictions.pt`, with a number behind a name
            that is taken.
        overwrite: whether a file at `path` may be replaced.

    Raises:
        MisconfigurationException: before anything is predicted, if `path` is there already, has
            another ending, or is a table that cannot be made.
        OSError: before anything is predicted, if no file can be written at `path`.

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
        if stage != "predict" or self.path is None:
            return
        if Path(self.path).suffix.lower() not in (*_WRITTEN, *_TENSORS):
            raise MisconfigurationException(
                f"PredictionWriter: {self.path} must end in {', '.join(_WRITTEN)} for a table, or "
                f"in {' or '.join(_TENSORS)} for a tensor."
            )
        named = hasattr(_data_of(trainer), "predict_names")
        if (ending := _table_ending(self.path)) is not None:
            if not named:
                raise MisconfigurationException(
                    f"PredictionWriter: {self.path} would be a table, but the images of "
                    f"{type(_data_of(trainer)).__name__} have no names: name a path that ends in "
                    ".pt."
                )
            if ending == ".parquet":
                need_parquet(self.path)
        path = Path(self.path) if named else _of_rank(Path(self.path), trainer)
        if path.exists() and not self.overwrite:
            raise MisconfigurationException(
                f"PredictionWriter: {path} is there already; name another path, or set "
                "overwrite=True to replace it."
            )
        check_writable(path)

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks take part in log_dir
        batches = [batch for batch in predictions if isinstance(batch, Tensor)]
        stacked = torch.cat([batch.cpu() for batch in batches])
        files = _names(trainer)
        if files is None:
            path = _of_rank(Path(self.path or folder / "predictions.pt"), trainer)
            self._write(path, _as_tensor(stacked), stacked)
            return
        places, merged = merge_ranks(_gathered(stacked, trainer))
        if not trainer.is_global_zero:
            return
        ending = None if self.path is None else _table_ending(self.path)
        if merged.dim() != 2:
            if ending is not None:
                raise MisconfigurationException(
                    f"PredictionWriter: {self.path} would be a table, which needs the "
                    f"probabilities of classes, but the predictions have the shape "
                    f"{list(merged.shape)}: name a path that ends in .pt."
                )
            columns: dict[str, Any] = {}
        else:
            columns = _columns(_data_of(trainer), files, places, merged.float())
        if self.path is not None:
            content = _WRITTEN[ending](columns) if ending else _as_tensor(merged)
            self._write(Path(self.path), content, merged)
            return
        self._write(folder / "predictions.pt", _as_tensor(merged), merged)
        for ending, written in _WRITTEN.items():
            if columns and (ending != ".parquet" or has_parquet()):
                self._write(folder / f"predictions{ending}", written(columns), merged)

    def _write(self, path: Path, content: Content, predictions: Tensor) -> None:
        if self.path is None:
            path = write_new_file(path, content)
        else:
            write_file(path, content)
        rank_zero_info(f"predictions {list(predictions.shape)}: {path}")


_WRITTEN: dict[str, Callable[[dict[str, Any]], Content]] = {".csv": as_csv, ".parquet": as_parquet}
"""What writes a table, by the ending of the file."""

_TENSORS = (".pt", ".pth")


def _columns(data: Any, files: list[str], places: list[int], merged: Tensor) -> dict[str, Any]:
    """The table of the examples at these places."""
    width = merged.shape[1]
    names = getattr(data, "class_names", None) or [str(number) for number in range(width)]
    if len(names) != width:
        raise MisconfigurationException(
            f"The data has {len(names)} names of classes, but the network {width} outputs: correct "
            "class_names of the data."
        )
    labels = getattr(data, "predict_labels", None)
    known = None if labels is None else [labels[place] for place in places]
    return table_of([files[place] for place in places], known, names, merged)


def _gathered(own: Tensor, trainer: Trainer) -> list[Tensor]:
    """What each process predicted, on every process."""
    if trainer.world_size == 1:
        return [own]
    strategy = trainer.strategy
    own = own if own.dtype == torch.float64 else own.float()  # not every backend sends bfloat16
    own = own.to(strategy.root_device)
    sizes = strategy.all_gather(torch.tensor([len(own)], device=own.device)).flatten().tolist()
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    shares = strategy.all_gather(padded).cpu()
    return [share[:size] for share, size in zip(shares, sizes, strict=True)]


def _data_of(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _names(trainer: Trainer) -> list[str] | None:
    """The names of the images that are predicted, if the data module has them."""
    return getattr(_data_of(trainer), "predict_names", None)


def _table_ending(path: str) -> str | None:
    ending = Path(path).suffix.lower()
    return ending if ending in _WRITTEN else None


def _as_tensor(predictions: Tensor) -> memoryview:
    content = BytesIO()
    torch.save(predictions, content)
    return content.getbuffer()


def _of_rank(path: Path, trainer: Trainer) -> Path:
    if trainer.world_size == 1:
        return path
    return path.with_stem(f"{path.stem}_{trainer.global_rank}")
