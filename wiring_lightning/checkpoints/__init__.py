"""Reading and writing checkpoints, with one clear sentence when that fails."""

from wiring_lightning.checkpoints.loaded import (
    loaded_from as loaded_from,
    note_loaded as note_loaded,
)
from wiring_lightning.checkpoints.matching import (
    check_checkpoint,
    check_optimizers,
    check_weights,
    infinite_values as infinite_values,
    is_from_trainer as is_from_trainer,
)
from wiring_lightning.checkpoints.reading import (
    CheckpointError,
    load_checkpoint,
    map_checkpoint as map_checkpoint,
    map_weights as map_weights,
    read_weights,
)
from wiring_lightning.checkpoints.storage import (
    AtomicCheckpointIO,
    load_weights,
    put_weights as put_weights,
    weights_for as weights_for,
)

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointError",
    "check_checkpoint",
    "check_optimizers",
    "check_weights",
    "load_checkpoint",
    "load_weights",
    "read_weights",
]
