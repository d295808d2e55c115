"""Features of frozen towers on disk: computed once a content, not once a stage and a run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path

import keras
import numpy as np

from mim_keras.models import ItemEncoder
from mim_keras.models.item_encoder import TOWERS
from mim_keras.preprocessing.content import ContentDataset

log = logging.getLogger("mim")
MAX_FILES = 4


class FeatureCache:
    """Tower features by a hash of the content and a fingerprint of the towers.

    Args:
        folder: Holds one file for each of the last `MAX_FILES` fingerprints, with the contents of the last call.
            Several processes may use one folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get_or_compute(self, content: ContentDataset, encoder: ItemEncoder) -> dict[str, np.ndarray]:
        """The features of every row, [rows, ·] each; computes those of contents that are not in the cache."""
        file = self._folder / f"{towers_fingerprint(encoder)}.npz"
        hashes = content.content_hashes()
        cached: dict[str, np.ndarray] = {}
        if file.is_file():
            with np.load(file) as values:
                cached = {name: values[name] for name in values.files}
        row_of_hash = {key: row for row, key in enumerate(cached.pop("hash", np.zeros(0, "S32")).tolist())}
        cached_row = np.array([row_of_hash.get(key, -1) for key in hashes.tolist()], np.int64)
        missing = np.flatnonzero(cached_row < 0)
        log.info("features: %d of %d contents from %s", len(content) - len(missing), len(content), self._folder)
        if not len(missing):
            return {name: values[cached_row] for name, values in cached.items()}
        # As float32: a NumPy file has no bfloat16.
        computed = {n: np.asarray(v, np.float32) for n, v in content.map(encoder.towers, missing).items()}
        features = {
            name: np.empty((len(content), *values.shape[1:]), values.dtype) for name, values in computed.items()
        }
        for name, values in features.items():
            values[missing] = computed[name]
            if len(missing) < len(content):
                values[cached_row >= 0] = cached[name][cached_row[cached_row >= 0]]
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{uuid.uuid4().hex}.npz"
        np.savez(part, allow_pickle=False, hash=hashes, **features)
        os.replace(part, file)
        for old in sorted(self._folder.glob("[!.]*.npz"), key=lambda path: path.stat().st_mtime)[:-MAX_FILES]:
            old.unlink(missing_ok=True)
        return features


def towers_fingerprint(encoder: ItemEncoder) -> str:
    """32 hexadecimal digits that change with the towers' configuration, weights or dtype policy."""
    config = encoder.get_config()
    facts = [
        [_without_names(config[name]) for name in TOWERS],
        [one.dtype_policy.name for one in encoder.towers.layers],
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for variable in encoder.towers.weights:  # the seed state of a dropout is not a weight
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()[:32]


def _without_names(config: object) -> object:
    """A Keras configuration without the names and seeds that Keras makes up, and without what is trained."""
    if isinstance(config, dict):
        left_out = ("name", "seed", "trainable")
        return {key: _without_names(value) for key, value in config.items() if key not in left_out}
    return [_without_names(value) for value in config] if isinstance(config, list) else config
