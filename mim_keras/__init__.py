"""Multi-modal content interest modelling in Keras 3.

Stage 1 aligns images and texts on the catalogue (`ImageTextAlignment`), stage 2 tunes the item encoder on behaviour by
contrast (`Csft`), stage 3 ranks with ids and content together (`CiUBM`).
"""

import importlib
from typing import Any

_EXPORTS = {
    "CiUBM": "mim_keras.models",
    "ContentDataset": "mim_keras.preprocessing.content",
    "ContentPreprocessor": "mim_keras.preprocessing.content",
    "Csft": "mim_keras.models",
    "ImageTextAlignment": "mim_keras.models",
    "ItemEncoder": "mim_keras.models",
    "ItemTable": "mim_keras.layers",
    "ItemTableData": "mim_keras.layers",
    "KnownPositives": "mim_keras.layers",
    "RankerEnsemble": "mim_keras.models",
    "VocabularySizes": "mim_keras.models",
    "make_ranker": "mim_keras.models",
    "preset": "mim_keras.config",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    # Late: importing TensorFlow takes seconds, and settings do not need it.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'mim_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
