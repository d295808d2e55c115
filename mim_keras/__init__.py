"""The models of multi-modal content interest modelling, in Keras 3.

Stage 1 aligns image and text on the catalogue (`Pretraining`), stage 2 tunes the item encoder on behaviour by
contrast (`Csft`), stage 3 ranks with ids and content together (`CiUBM`).
"""

import importlib
from typing import Any

_PLACES = {
    "CiUBM": "mim_keras.ciubm",
    "Csft": "mim_keras.csft",
    "ItemColumns": "mim_keras.item_table",
    "ItemEncoder": "mim_keras.encoders.item_encoder",
    "ItemTable": "mim_keras.item_table",
    "ItemsOfKeys": "mim_keras.contrast.items_of_keys",
    "Pretraining": "mim_keras.pretrain",
    "RankerShape": "mim_keras.ciubm",
    "preset": "mim_keras.config",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    # Late, because importing TensorFlow takes seconds and the settings alone do not need it.
    if name not in _PLACES:
        raise AttributeError(f"module 'mim_keras' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
