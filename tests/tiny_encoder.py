"""A small encoder with random weights, exported: real enough for whatever only needs vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras

from mim_keras.config import EncoderConfig, preset
from mim_keras.encoders.item_encoder import ItemEncoder
from mim_keras.encoders.text_reader import TextReader
from mim_keras.export import export_encoder
from mim_keras.export_extras import FACTS

WORDS = ["red striped heart mug", "blue dotted star lamp", "green plain circle rug"] * 5


def tiny_encoder(seed: int = 1, config: EncoderConfig | None = None) -> tuple[ItemEncoder, TextReader]:
    """An encoder as it comes, and what its towers for words read."""
    keras.utils.set_random_seed(seed)
    config = config or preset("tiny").encoder
    words, _ = TextReader.fit(config, WORDS)
    encoder = ItemEncoder(config, words)
    encoder.build()
    return encoder, words


def export_tiny_encoder(folder: Path, seed: int = 1, config: EncoderConfig | None = None, **changes: int) -> str:
    """Writes a SavedModel into `folder` and returns the encoder's version."""
    encoder, words = tiny_encoder(seed, replace(config or preset("tiny").encoder, **changes))
    export_encoder(encoder, words, folder)
    version: str = json.loads((folder / FACTS).read_text())["version"]
    return version
