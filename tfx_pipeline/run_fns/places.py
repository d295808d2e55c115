"""Folders that a Trainer's run function keeps beside its model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from components.storage import LocalCopy, staging_area
from mim_keras.models import ItemEncoder
from mim_keras.preprocessing.content import ContentDataset
from mim_keras.training.callbacks import CheckpointFiles, is_first_worker
from mim_keras.training.feature_cache import FeatureCache
from serving.storage import as_path


def model_run_folder(model_run_dir: str) -> Path:
    """Curves and figures, in the ModelRun artifact."""
    return Path(model_run_dir) / "logs"


class Checkpoints:
    """Checkpoints of a stage, from which an execution resumes what one before it began.

    They lie beside the ModelRun artifacts of the Trainer, which have a folder for each execution.  On an object store
    they are copied there after each epoch.

    Args:
        fn_args: Of the run function.
        stage: Its name.

    Attributes:
        files: For the training.  A checkpoint is resumed where settings and inputs are equal.
    """

    def __init__(self, fn_args: Any, stage: str) -> None:
        origin = staging_area().origin
        inputs = [*fn_args.train_files, fn_args.base_model or "", fn_args.transform_graph_path or ""]
        settings = fn_args.custom_config.items()
        config = {name: origin(value) if isinstance(value, str) else value for name, value in settings}
        fingerprint = [config, *map(origin, inputs)]
        digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self._copy = LocalCopy(_shared(fn_args) / "checkpoints" / f"{stage}-{digest}")
        self.files = CheckpointFiles(self._copy.folder, fingerprint, self._copy.publish)

    def delete(self) -> None:
        """Call once the trained model is saved elsewhere."""
        if is_first_worker():
            self._copy.delete()


def tower_features(fn_args: Any, content: ContentDataset, encoder: ItemEncoder) -> dict[str, np.ndarray]:
    """Features of frozen towers: one cache for the stages that ask for them, and for later runs in the same root."""
    copy = LocalCopy(_shared(fn_args).parent / "tower_features")
    features = FeatureCache(copy.folder).get_or_compute(content, encoder)
    if is_first_worker():
        copy.publish()
    return features


def _shared(fn_args: Any) -> UPath:
    """A folder that all executions of one Trainer find."""
    return as_path(staging_area().origin(fn_args.model_run_dir)).parent.parent
