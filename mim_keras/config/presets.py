"""The stages' settings at named sizes."""

from __future__ import annotations

from typing import Any

from mim_keras.config.mapping import from_mapping, require
from mim_keras.config.stages import StagesConfig

PRESETS: dict[str, dict[str, Any]] = {
    # For tests: seconds on a CPU.
    "tiny": {
        "encoder": {
            "embedding_dim": 16,
            "text": {"vocabulary_size": 500, "max_tokens": 12, "hidden_dim": 16, "heads": 2},
            "image": {"image_size": 16, "filters": [8, 16]},
        },
        "pretrain": {"training": {"epochs": 2, "batch_size": 32}},
        "csft": {"queue_size": 64, "training": {"epochs": 1, "batch_size": 32}},
        "ciubm": {
            "history_length": 8,
            "id_dim": 8,
            "content_dim": 8,
            "hidden": [16],
            # An epoch has few steps, and XLA takes longer to compile them than they take.
            "training": {"epochs": 1, "batch_size": 128, "jit_compile": False, "steps_per_execution": 1},
        },
    },
    # The default: minutes on a CPU.
    "base": {},
    # For accelerators: the sizes that reports of this family of methods give.
    "large": {
        "encoder": {
            "embedding_dim": 128,
            "text": {"vocabulary_size": 30000, "max_tokens": 64, "hidden_dim": 384, "layers": 6, "heads": 6},
            "image": {"image_size": 224, "filters": [64, 128, 256, 512, 512]},
        },
        "pretrain": {"training": {"epochs": 10, "batch_size": 1024, "mixed_precision": "mixed_bfloat16"}},
        "csft": {
            "queue_size": 196800,
            "training": {"epochs": 3, "batch_size": 8192, "mixed_precision": "mixed_bfloat16"},
        },
        "ciubm": {"id_dim": 32, "hidden": [256, 128, 64], "training": {"batch_size": 8192}},
    },
}


def preset(name: str) -> StagesConfig:
    """The stages' settings at a named size: `tiny`, `base` or `large`.

    Example:
        >>> from mim_keras.config import preset
        >>> preset("tiny").encoder.embedding_dim
        16
    """
    require(name in PRESETS, f"a preset is one of {', '.join(PRESETS)}", name, "Choose one.")
    return from_mapping(StagesConfig, PRESETS[name])
