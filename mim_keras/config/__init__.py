"""Settings of the encoder and the three stages: frozen dataclasses, checked when they are made.

Every value can be written in YAML (`from_mapping`).  An unknown key, or a value out of range, raises `ConfigError`
with the rule, the value received and the fix.  Importing this package does not import TensorFlow.
"""

from mim_keras.config.encoder import (
    EmbeddingTowerConfig,
    EncoderConfig,
    ImageTowerConfig,
    LSATowerConfig,
    TextTowerConfig,
)
from mim_keras.config.interests import INTERESTS, Interest
from mim_keras.config.mapping import ConfigError, from_mapping, require, to_mapping
from mim_keras.config.presets import PRESETS, preset
from mim_keras.config.stages import (
    BASELINES,
    ONE_RANKER,
    SIGNALS,
    CiubmConfig,
    CsftConfig,
    InfoNCETerm,
    PretrainConfig,
    StagesConfig,
)
from mim_keras.config.training import TrainingConfig

__all__ = [
    "BASELINES",
    "INTERESTS",
    "ONE_RANKER",
    "PRESETS",
    "SIGNALS",
    "CiubmConfig",
    "ConfigError",
    "CsftConfig",
    "EmbeddingTowerConfig",
    "EncoderConfig",
    "ImageTowerConfig",
    "InfoNCETerm",
    "Interest",
    "LSATowerConfig",
    "PretrainConfig",
    "StagesConfig",
    "TextTowerConfig",
    "TrainingConfig",
    "from_mapping",
    "preset",
    "require",
    "to_mapping",
]
