"""Which checkpoints are the best of a fit so far."""

from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn


def best_checkpoints(trainer: Trainer) -> list[tuple[str, float]]:
    """Path and modification time of the best checkpoints so far."""
    paths = [getattr(each, "best_model_path", "") for each in trainer.checkpoint_callbacks]
    return [(path, Path(path).stat().st_mtime) for path in paths if path and Path(path).is_file()]


def warn_of_denser(name: str, before: Sequence[tuple[str, float]], trainer: Trainer) -> None:
    """Warn if the best checkpoint of a fit is still one of those from before its last pruning."""
    for best in best_checkpoints(trainer):
        if best in before:
            rank_zero_warn(
                f"{name}: the best checkpoint, {best[0]}, was saved before all weights were "
                "removed, so its network is larger than asked for; use the last checkpoint, or a "
                "ModelCheckpoint that starts later."
            )
