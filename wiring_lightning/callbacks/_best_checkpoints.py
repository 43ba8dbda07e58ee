"""Which checkpoints are the best of a fit so far."""

from pathlib import Path

from lightning.pytorch import Trainer


def best_checkpoints(trainer: Trainer) -> list[tuple[str, float]]:
    """Path and modification time of the best checkpoints so far."""
    paths = [getattr(each, "best_model_path", "") for each in trainer.checkpoint_callbacks]
    return [(path, Path(path).stat().st_mtime) for path in paths if path and Path(path).is_file()]
