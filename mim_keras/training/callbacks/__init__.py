"""Keras callbacks."""

from mim_keras.training.callbacks.checkpoint import Checkpoint, CheckpointFiles, delete_checkpoint, is_first_worker
from mim_keras.training.callbacks.collapse import CollapseError, TerminateOnCollapse
from mim_keras.training.callbacks.progress import Progress
from mim_keras.training.callbacks.validation import ValidationMetrics

__all__ = [
    "Checkpoint",
    "CheckpointFiles",
    "CollapseError",
    "Progress",
    "TerminateOnCollapse",
    "ValidationMetrics",
    "delete_checkpoint",
    "is_first_worker",
]
