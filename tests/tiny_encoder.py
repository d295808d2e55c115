"""A small encoder with random weights, exported: real enough for whatever only needs embeddings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from mim_keras.config import EncoderConfig, preset
from mim_keras.serving.assets import METADATA
from mim_keras.serving.signatures_encoder import export_encoder
from tests.mim_keras.tiny import tiny_encoder


def export_tiny_encoder(folder: Path, seed: int = 1, config: EncoderConfig | None = None, **changes: int) -> str:
    """Writes a SavedModel into `folder` and returns the encoder's version."""
    encoder, preprocessor = tiny_encoder(seed, replace(config or preset("tiny").encoder, **changes))
    export_encoder(encoder, preprocessor, folder)
    version: str = json.loads((folder / METADATA).read_text())["version"]
    return version
