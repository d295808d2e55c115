"""What frozen towers said, kept on disk: they are asked once for each content, not once in each stage and run."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from pathlib import Path

import keras
import numpy as np

from mim_keras.config import to_mapping
from mim_keras.encoders.content import ContentTable
from mim_keras.encoders.item_encoder import ItemEncoder

log = logging.getLogger("mim")
KEPT = 4


class FeatureCache:
    """Features of contents, by what a content is and by what the towers are.

    Args:
        folder: Holds one file for each of the last `KEPT` states of the towers, named by the hash of their weights and
            settings.  A file holds the contents that were asked for last.  Several processes may use one folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def features(self, table: ContentTable, encoder: ItemEncoder) -> dict[str, np.ndarray]:
        """As `ContentTable.features` gives them; the towers are asked for the contents that are not in the cache."""
        file = self._folder / f"{_hash_of_towers(encoder)}.npz"
        keys = table.hashes()
        kept: dict[str, np.ndarray] = {}
        if file.is_file():
            with np.load(file) as values:
                kept = {name: values[name] for name in values.files}
        place = {key: row for row, key in enumerate(kept.pop("hash", np.zeros(0, "S32")).tolist())}
        found = np.array([place.get(key, -1) for key in keys.tolist()], np.int64)
        missing = np.flatnonzero(found < 0)
        log.info("features: %d of %d contents from %s", len(table) - len(missing), len(table), self._folder)
        if not len(missing):
            return {name: values[found] for name, values in kept.items()}
        # Half precision is kept as float32: a NumPy file has no bfloat16.
        asked = {name: np.asarray(values, np.float32) for name, values in table.features(encoder, missing).items()}
        features = {name: np.empty((len(table), *values.shape[1:]), values.dtype) for name, values in asked.items()}
        for name, values in features.items():
            values[missing] = asked[name]
            if len(missing) < len(table):
                values[found >= 0] = kept[name][found[found >= 0]]
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._folder / f".{uuid.uuid4().hex}.npz"
        np.savez(own, allow_pickle=False, hash=keys, **features)
        os.replace(own, file)
        for old in sorted(self._folder.glob("[!.]*.npz"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
        return features


def _hash_of_towers(encoder: ItemEncoder) -> str:
    config = encoder.config
    told: list[object] = [to_mapping(part) for part in (config.image, config.text, *config.lexicals)]
    told.append(encoder.dtype_policy.name)
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for tower in (encoder.image_tower, encoder.text_tower, *encoder.lexical_towers):
        for variable in tower.weights if tower is not None else []:  # the state of a dropout's draws is none of them
            found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return found.hexdigest()[:32]
