"""Save predictions to files."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
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
            `torch.load` if it ends in `.pt` or `.pth`; `~` is a home. If not given, all of them are
            written in the run's folder under the names above and `predictions.pt`, with a number
            behind a name that is taken. A trainer with `fast_dev_run` writes none.
        overwrite: whether a file at `path` may be replaced.

    Raises:
        MisconfigurationException: before anything is predicted, if `path` is there already, has
            another ending, or is a table that cannot be made, or if there are several loaders;
            at the first batch that is not predicted as a tensor with one row for each example, or,
            for a table, with the probabilities of the classes.
        OSError: before anything is predicted, if no file can be written at `path`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[PredictionWriter("probabilities.pt")], logger=False,
        ...                   enable_checkpointing=False, accelerator="cpu")
    """

    def __init__(self, path: str | None = None, overwrite: bool = False) -> None:
        super().__init__(write_interval="epoch")
        self.path = None if path is None else os.path.expanduser(path)  # noqa: PTH111
        self.overwrite = overwrite
        self._examples: int | None = None  # how many have a name; `None` if none has
        self._seen = 0  # examples that this process has predicted
        self._shape_of_row: torch.Size | None = None  # of what is predicted for an example

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        if not trainer.limit_predict_batches:
            rank_zero_warn(
                "PredictionWriter: limit_predict_batches is 0, so nothing is predicted and no file "
                "is written."
            )
        if self.path is not None:
            self._check_path(self.path, trainer)

    def _check_path(self, given: str, trainer: Trainer) -> None:
        """Raise an error if nothing can be written at a path, or not what its ending says."""
        if Path(given).suffix.lower() not in (*_TABLE_WRITERS, *_TENSOR_ENDINGS):
            raise MisconfigurationException(
                f"PredictionWriter: {given} must end in {', '.join(_TABLE_WRITERS)} for a table, "
                f"or in {' or '.join(_TENSOR_ENDINGS)} for a tensor."
            )
        named = hasattr(_data_of(trainer), "predict_names")
        if (ending := _table_ending(given)) is not None:
            if not named:
                raise MisconfigurationException(
                    f"PredictionWriter: {given} would be a table, but the images of "
                    f"{type(_data_of(trainer)).__name__} have no names: name a path that ends in "
                    ".pt."
                )
            if ending == ".parquet":
                need_parquet(given)
        path = Path(given) if named else _of_rank(Path(given), trainer)
        if path.exists() and not self.overwrite:
            raise MisconfigurationException(
                f"PredictionWriter: {path} is there already; name another path, or set "
                "overwrite=True to replace it."
            )
        check_writable(path)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (count := len(trainer.num_predict_batches)) > 1:
            raise MisconfigurationException(
                f"PredictionWriter: the data has {count} loaders to predict, but one file is "
                "written: give one loader, or a BasePredictionWriter of your own."
            )
        names = _image_names(trainer)
        self._examples = None if names is None else len(names)
        self._seen, self._shape_of_row = 0, None

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        size = None if self._examples is None else _count_examples(batch)
        self._check_rows(outputs, size, batch_idx)
        if self._examples is None:
            return
        self._seen += len(outputs)
        # Process r of R has the examples r, r + R, ...
        if trainer.global_rank + (self._seen - 1) * trainer.world_size >= self._examples:
            raise MisconfigurationException(
                f"PredictionWriter: the data has names of {self._examples} examples "
                "(predict_names), but more are predicted: name each of them."
            )
        if self.path is None or _table_ending(self.path) is not None:
            self._check_probabilities(_data_of(trainer), outputs)

    def _check_rows(self, outputs: Any, size: int | None, batch_idx: int) -> None:
        """Raise an error if there is not one row for each example, of the shape of the others."""
        shape = outputs.shape if isinstance(outputs, Tensor) and outputs.dim() else None
        if shape is not None and self._shape_of_row is None:
            self._shape_of_row = shape[1:]
        if shape is None or shape[1:] != self._shape_of_row or size not in (None, shape[0]):
            found = "None" if outputs is None else f"a {type(outputs).__name__}"
            if isinstance(outputs, Tensor):
                found = f"a tensor of shape {list(outputs.shape)}"
            wanted = "each example" if size is None else f"each of {size} examples"
            raise MisconfigurationException(
                f"PredictionWriter: predict_step returned {found} for batch {batch_idx}, but a "
                f"tensor with one row for {wanted}, always of one shape, is needed: return that, "
                "or use a BasePredictionWriter of your own."
            )

    def _check_probabilities(self, data: Any, rows: Tensor) -> None:
        """Raise an error if no table can be made of such predictions."""
        if rows.dim() != 2:
            if self.path is None:
                return  # only the tensor is written
            raise MisconfigurationException(
                f"PredictionWriter: {self.path} would be a table, which needs the probabilities of "
                f"classes, but the predictions have the shape {list(rows.shape)}: name a path that "
                "ends in .pt."
            )
        _class_names(data, rows.shape[1])
        # The sum of half-precision numbers is not exact; NaN is written as it is.
        if (rows < 0).any() or ((rows.float().sum(1) - 1).abs() > 0.02).any():
            raise MisconfigurationException(
                f"PredictionWriter: a table needs probabilities that are at least 0 and sum to 1 "
                f"over the classes, but predict_step returned {_shown_row(rows[0])}: return "
                "logits.softmax(1), or name a path that ends in .pt to save a tensor of anything."
            )

    @override
    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        if trainer.fast_dev_run:  # which leaves no files
            rank_zero_info("PredictionWriter: fast_dev_run writes no predictions.")
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks take part in log_dir
        stacked = torch.cat([batch.cpu() for batch in predictions])
        files = _image_names(trainer)
        if files is None:
            path = _of_rank(Path(self.path or folder / "predictions.pt"), trainer)
            self._write(path, _tensor_file(stacked), stacked)
            return
        places, merged = merge_ranks(_gather(stacked, trainer))
        if not trainer.is_global_zero:
            return
        ending = None if self.path is None else _table_ending(self.path)
        columns: dict[str, Any] = {}
        if merged.dim() == 2 and (self.path is None or ending is not None):
            columns = _columns(_data_of(trainer), files, places, merged.float())
        if self.path is not None:
            content = _TABLE_WRITERS[ending](columns) if ending else _tensor_file(merged)
            self._write(Path(self.path), content, merged)
            return
        self._write(folder / "predictions.pt", _tensor_file(merged), merged)
        for ending, written in _TABLE_WRITERS.items():
            if columns and (ending != ".parquet" or has_parquet()):
                self._write(folder / f"predictions{ending}", written(columns), merged)

    def _write(self, path: Path, content: Content, predictions: Tensor) -> None:
        """Write a file, in the run's folder beside those that are there, and say where it is."""
        if self.path is None:
            path = write_new_file(path, content)
        else:
            write_file(path, content)
        rank_zero_info(f"predictions {list(predictions.shape)}: {path}")


_TABLE_WRITERS: dict[str, Callable[[dict[str, Any]], Content]] = {
    ".csv": as_csv,
    ".parquet": as_parquet,
}
"""What writes a table, by the ending of the file."""

_TENSOR_ENDINGS = (".pt", ".pth")


def _columns(data: Any, files: list[str], places: list[int], merged: Tensor) -> dict[str, Any]:
    """The table of the examples at these places."""
    labels = getattr(data, "predict_labels", None)
    known = None if labels is None else [labels[place] for place in places]
    names = _class_names(data, merged.shape[1])
    return table_of([files[place] for place in places], known, names, merged)


def _class_names(data: Any, width: int) -> list[str]:
    """The names of the classes, or their numbers; an error if there are more or fewer of them."""
    names = getattr(data, "class_names", None) or [str(number) for number in range(width)]
    if len(names) != width:
        raise MisconfigurationException(
            f"The data has {len(names)} names of classes, but the network {width} outputs: correct "
            "class_names of the data."
        )
    return names


def _count_examples(batch: Any) -> int | None:
    """The number of examples in a batch: the length of its first tensor, if it has one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    values = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(values, str) or not isinstance(values, Iterable):
        return None
    return next((size for value in values if (size := _count_examples(value)) is not None), None)


def _shown_row(row: Tensor) -> str:
    """The first numbers of a row, for a message."""
    shown = ", ".join(f"{value:.3g}" for value in row[:3].tolist())
    return f"the row {shown}" + (", ..." if len(row) > 3 else "")


def _gather(own: Tensor, trainer: Trainer) -> list[Tensor]:
    """What each process predicted, on every process."""
    if trainer.world_size == 1:
        return [own]
    strategy, device = trainer.strategy, trainer.strategy.root_device
    sizes = strategy.all_gather(torch.tensor([len(own)], device=device)).flatten().tolist()
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    # As bytes, because not every backend sends numbers of every kind.
    shares = strategy.all_gather(padded.flatten().view(torch.uint8).to(device)).cpu()
    return [
        share.view(own.dtype).view(padded.shape)[:size]
        for share, size in zip(shares, sizes, strict=True)
    ]


def _data_of(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _image_names(trainer: Trainer) -> list[str] | None:
    """The names of the images that are predicted, if the data module has them."""
    return getattr(_data_of(trainer), "predict_names", None)


def _table_ending(path: str) -> str | None:
    """The ending of a path to a table; `None` if it is for a tensor."""
    ending = Path(path).suffix.lower()
    return ending if ending in _TABLE_WRITERS else None


def _tensor_file(predictions: Tensor) -> memoryview:
    """A file for `torch.load`."""
    content = BytesIO()
    torch.save(predictions, content)
    return content.getbuffer()


def _of_rank(path: Path, trainer: Trainer) -> Path:
    """The path of this process's own share; the same path if it is the only process."""
    if trainer.world_size == 1:
        return path
    return path.with_stem(f"{path.stem}_{trainer.global_rank}")
