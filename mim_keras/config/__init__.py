"""Settings of the encoder and the three stages: one frozen dataclass each, checked when it is made.

Every value can be written in YAML (``from_mapping``); a key that does not exist or a value that makes no
sense is refused with the rule, what was received and the fix.
"""

from mim_keras.config.encoder import EncoderConfig, ImageTowerConfig, LexicalConfig, TextTowerConfig
from mim_keras.config.mapping import ConfigError, from_mapping, require, to_mapping
from mim_keras.config.presets import PRESETS, preset
from mim_keras.config.stages import (
    COMPARISONS,
    IDS_ALONE,
    SIGNALS,
    CiubmConfig,
    ContrastTerm,
    CsftConfig,
    PretrainConfig,
    StagesConfig,
)
from mim_keras.config.training import TrainingConfig

__all__ = [
    "COMPARISONS",
    "IDS_ALONE",
    "PRESETS",
    "SIGNALS",
    "CiubmConfig",
    "ConfigError",
    "ContrastTerm",
    "CsftConfig",
    "EncoderConfig",
    "ImageTowerConfig",
    "LexicalConfig",
    "PretrainConfig",
    "StagesConfig",
    "TextTowerConfig",
    "TrainingConfig",
    "from_mapping",
    "preset",
    "require",
    "to_mapping",
]
