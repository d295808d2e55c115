"""Where a Trainer's run function keeps what is not its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mim_keras.training.feature_cache import FeatureCache


def model_run_folder(model_run_dir: str) -> Path:
    """Curves and figures, in the ModelRun artifact."""
    return Path(model_run_dir) / "logs"


def checkpoints_of(fn_args: Any, stage: str) -> tuple[Path, object]:
    """The folder of a stage's checkpoints, and what a checkpoint must agree with to be gone on from.

    Each execution has a ModelRun folder of its own; this one is theirs together, so that an execution finds what one
    before it left when it was killed.  The artifacts' folders show whether it is the same training.
    """
    identity = [fn_args.custom_config, fn_args.train_files, fn_args.base_model, fn_args.transform_graph_path]
    return _shared(fn_args) / "checkpoints" / stage, identity


def features_of(fn_args: Any) -> FeatureCache:
    """What frozen towers said: one for the stages that ask them, and for later runs in the same root."""
    return FeatureCache(_shared(fn_args).parent / "tower_features")


def _shared(fn_args: Any) -> Path:
    """A folder that all executions of one Trainer find."""
    return Path(fn_args.model_run_dir).parent.parent
