"""The base class of all data modules: splits, loaders, and resuming inside an epoch."""

import warnings
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from wiring_lightning._checks import check_counts, check_seed
from wiring_lightning.checkpoints import loaded_from, note_loaded
from wiring_lightning.data import _normalization as normalization
from wiring_lightning.data.loader import BatchLoader
from wiring_lightning.data.normalize import Normalizer

Images = TypeVar("Images", Tensor, list[str])


class ResumableDataModule(LightningDataModule, ABC, Generic[Images]):
    """Base class of the data modules: reads its splits once, and resumes inside an epoch.

    The position of the training loader is part of this module's state. Lightning also restores a
    stateful loader, but not if ``configure_optimizers`` uses
    ``trainer.estimated_stepping_batches``: the loader then exists before the checkpoint is read,
    and its state is silently dropped (Lightning-AI/pytorch-lightning#20550).

    So is a split that chance had a part in, see :meth:`_drawn_split`: what a checkpoint was trained
    on shall not be measured later, when there are more pictures.

    And so is the normalisation. A network that is evaluated from a checkpoint gets images that are
    normalised as those that it was trained on, also of another data module; a fit measures its own
    statistics. Lightning gives a data module the state of its own class only, so that of another
    one is read from the file when a loader is made.

    Args:
        batch_size: Images per step and process.
        seed: Seed of the random order and augmentation.
        drop_last: Whether to leave out a last training batch that is not full.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    normalizer: Normalizer

    def __init__(self, batch_size: int, seed: int, drop_last: bool) -> None:
        super().__init__()
        check_counts(batch_size=batch_size)
        check_seed(seed)
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self._splits: tuple[tuple[Images, Tensor], ...] | None = None
        self._train_loader: BatchLoader | None = None
        self._resume_state: dict[str, Any] = {}  # a position for a loader that is yet to be made
        self._split_is_known = False  # from a checkpoint, or a warning says that it is not
        self._own_normalizer: Normalizer | None = None  # while that of a checkpoint is in its place
        self._evaluated: str | Path | None = None  # checkpoint whose normalisation is known

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the loaders yield."""

    @abstractmethod
    def read_splits(self) -> tuple[tuple[Images, Tensor], ...]:
        """Return images and labels for training, validation and test.

        If there are only two splits, the second is used for validation and test.
        """

    @abstractmethod
    def _loader(self, images: Images, labels: Tensor, train: bool, **options: Any) -> BatchLoader:
        """Return a loader of one split; ``options`` are arguments of :class:`BatchLoader`."""

    def _drawn_split(self) -> str | None:
        """Return the split as a text, or None if chance had no part in it."""
        return None

    def _keep_split(self, text: str) -> None:
        """Take over a split that :meth:`_drawn_split` returned."""

    @override
    def setup(self, stage: str) -> None:
        """Read the data set, once.

        Args:
            stage: Lightning's stage: ``fit`` normalises by the data's own statistics again.
        """
        if stage == "fit":
            self._normalize_as_before()
            self._note_loaded(None)
        if self._splits is None:
            self._splits = self.read_splits()

    @override
    def train_dataloader(self) -> BatchLoader:
        """Return a loader of this process's share of the training images, in random order."""
        trainer = self.trainer
        loader = self._share(
            0,
            train=True,
            # Lightning's `overfit_batches` needs the same batches in each epoch.
            shuffle=not getattr(trainer, "overfit_batches", 0),
            drop_last=self.drop_last,
            trainer=trainer,
        )
        if self._resume_state:
            loader.load_state_dict(self._resume_state)
            self._resume_state = {}
        self._train_loader = loader
        return loader

    @override
    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Return a loader of the validation images, or no loader if there are none."""
        _, labels = self._ready()[1]
        return self._share(1, train=False) if len(labels) else []

    @override
    def test_dataloader(self) -> BatchLoader:
        """Return a loader of the test images, in the data set's order."""
        return self._share(-1, train=False)

    @override
    def predict_dataloader(self) -> BatchLoader:
        """Return the test loader: on one process, predictions come in the test images' order."""
        return self.test_dataloader()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training images, the normalisation, and a drawn split."""
        state = {} if self._train_loader is None else self._train_loader.state_dict()
        if isinstance(getattr(self, "normalizer", None), Normalizer):
            state[normalization.KEY] = normalization.state_of(self.normalizer)
        if (split := self._drawn_split()) is not None:
            text = zlib.compress(split.encode("utf-8", "surrogateescape"))
            state["split"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the split, and continue training from the position.

        An evaluation takes over the normalisation.
        """
        state = dict(state_dict)
        trained_with = normalization.in_state(state)
        state.pop(normalization.KEY, None)
        if (split := state.pop("split", None)) is not None:
            text = zlib.decompress(split.numpy().tobytes())
            before = self._splits
            self._keep_split(text.decode("utf-8", "surrogateescape"))
            self._split_is_known = True
            if self._splits is not before:
                self._drop_train_loader()
        if (checkpoint := self._checkpoint_to_evaluate()) is not None:
            self._normalize_as_before()
            self._evaluated = checkpoint
            if trained_with is not None:
                self._normalize_as(trained_with, type(self).__name__, checkpoint)
        if not state or (self.trainer is not None and not self.trainer.training):
            return
        self._resume_state = state
        if self._train_loader is not None:
            self._train_loader.load_state_dict(state)

    def _drop_train_loader(self) -> None:
        """Let a training loader of another split be made again.

        It exists before the checkpoint is read if something asked early how long the fit will be.
        """
        if self._train_loader is None:
            return
        if self.trainer is None:
            raise RuntimeError(
                "The training loader has another split than the checkpoint: load the state of "
                f"{type(self).__name__} before train_dataloader() is called."
            )
        self._train_loader = None
        self.trainer.fit_loop._combined_loader = None  # then the trainer asks for a new one

    def warn_if_drawn_anew(self, checkpoint: str | Path) -> None:
        """Warn, once, of a split that was drawn and that the checkpoint does not hold."""
        # A network that was trained here was trained on this split.
        if self._split_is_known or self._train_loader is not None or self._drawn_split() is None:
            return
        self._split_is_known = True
        warnings.warn(
            f"The checkpoint {checkpoint} holds no split of the pictures, so one was drawn anew, "
            "and pictures that it was trained on may be measured if any were added since: use a "
            "whole checkpoint of the run, or name the files of its split.",
            stacklevel=2,
        )

    def __str__(self) -> str:
        """Describe the splits; Lightning's version needs torch's own data loaders."""
        name = type(self).__name__
        if self._splits is None:
            return f"{name} (not set up)"
        kinds = ("training", "validation", "test")
        sizes = [
            f"{len(split[1])} {kind}" for split, kind in zip(self._splits, kinds, strict=False)
        ]
        return f"{name}: {', '.join(sizes[:-1])} and {sizes[-1]} images of shape {self.image_shape}"

    def _ready(self) -> tuple[tuple[Images, Tensor], ...]:
        if self._splits is None:
            raise RuntimeError(f"Call {type(self).__name__}.setup() before asking for a loader.")
        return self._splits

    def _share(self, split: int, train: bool, **options: Any) -> BatchLoader:
        """Return a loader of this process's share of a split."""
        self._look_for_training()  # first: it may know the split
        if checkpoint := getattr(self.trainer, "ckpt_path", None):
            self.warn_if_drawn_anew(checkpoint)
        return self._share_of(*self._ready()[split], train, **options)

    def _share_of(self, images: Images, labels: Tensor, train: bool, **options: Any) -> BatchLoader:
        """Return a loader of this process's share of some images."""
        trainer = self.trainer
        self._look_for_training()
        return self._loader(
            images,
            labels,
            train,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
            **options,
        )

    def _checkpoint_to_evaluate(self) -> str | Path | None:
        """The checkpoint of the network that the trainer evaluates; None in a fit."""
        trainer = self.trainer
        module = getattr(trainer, "lightning_module", None)
        from_file = None if module is None else loaded_from(module)
        checkpoint: str | Path | None = getattr(trainer, "ckpt_path", None) or from_file
        if trainer is None or checkpoint is None or trainer.state.fn == TrainerFn.FITTING:
            return None
        return checkpoint

    def _note_loaded(self, checkpoint: str | Path | None) -> None:
        """Note which file the weights of the trainer's network are from."""
        module = getattr(self.trainer, "lightning_module", None)
        if module is not None:
            note_loaded(module, checkpoint)

    def _look_for_training(self) -> None:
        """Take over how the network was trained: the normalisation, also of other data."""
        checkpoint = self._checkpoint_to_evaluate()
        if checkpoint is None:
            self._normalize_as_before()
            return
        self._note_loaded(checkpoint)  # later evaluations of the network may not name the file
        if checkpoint == self._evaluated:
            return
        self._normalize_as_before()
        self._evaluated = checkpoint
        found = normalization.state_in_file(checkpoint)
        if found is None:
            return
        name, state = found
        if name == type(self).__qualname__:
            if not getattr(self.trainer, "ckpt_path", None):  # otherwise Lightning does it
                self.load_state_dict(dict(state))
            return
        trained_with = normalization.in_state(state)
        if trained_with is None:
            rank_zero_warn(
                f"The network of {checkpoint} was trained with {name}, and the checkpoint does not "
                f"say how its images were normalised: {type(self).__name__} normalises by its own "
                "statistics, which may give wrong results; evaluate with that data, or assign its "
                "normalizer to this data module in Python."
            )
        else:
            self._normalize_as(trained_with, name, checkpoint)

    def _normalize_as(self, wanted: Normalizer, name: str, checkpoint: str | Path) -> None:
        """Normalise as in the training of a network that is evaluated."""
        own, here = getattr(self, "normalizer", None), type(self).__name__
        if not isinstance(own, Normalizer) or normalization.is_same(wanted, own):
            return
        shape = self._normalized_shape()
        fitting = normalization.for_shape(wanted, shape)
        if fitting is None:
            rank_zero_warn(
                f"The network of {checkpoint} was trained with {name} and a mean of shape "
                f"{list(wanted.mean.shape)}, which does not fit images {list(shape)}: {here} "
                "normalises by other statistics, which may give wrong results; give the images the "
                "size and the channels of that data."
            )
            return
        rank_zero_info(
            f"{here}: images are normalised as by {name} in the training of {checkpoint}"
        )
        self._own_normalizer, self.normalizer = own, fitting

    def _normalize_as_before(self) -> None:
        """Normalise by the data's own statistics."""
        if self._own_normalizer is not None:
            self.normalizer, self._own_normalizer = self._own_normalizer, None
        self._evaluated = None

    def _normalized_shape(self) -> tuple[int, int, int]:
        """The shape of an image when it is normalised."""
        return self.image_shape


def warn_of_kept_split(root: str, new: int) -> None:
    """Warn that the split of the checkpoint differs from the one that would be drawn now."""
    warnings.warn(
        f"The split of the checkpoint is kept, though '{root}' or the options of the split have "
        f"changed since: {new} picture(s) that are in no part of it are not used.",
        stacklevel=2,
    )
