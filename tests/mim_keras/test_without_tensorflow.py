"""The three stages train under Keras' JAX backend on a machine that has no TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np

SCRIPT = """
import json, sys
if sys.argv[1] == "without":
    for name in ("tensorflow", "tensorflow_text"):
        sys.modules[name] = None  # an import of it fails
import keras
import numpy as np
from mim_keras.config import CsftConfig, PretrainConfig, preset
from mim_keras.layers import ItemTable, ItemTableData
from mim_keras.layers.towers import EmbeddingTower
from mim_keras.models.ciubm import CiUBM, VocabularySizes
from mim_keras.models.csft import Csft
from mim_keras.models.image_text_alignment import ImageTextAlignment
from mim_keras.models.item_encoder import ItemEncoder

rng = np.random.default_rng(0)


def train(model, x, y=None):
    for variable in model.trainable_variables:  # the same start on every backend
        shape = tuple(variable.shape)
        values = 0.3 * np.sin(np.arange(np.prod(shape, dtype=int))).reshape(shape).astype("float32")
        variable.assign(values if shape else values + 2.0)
    model.compile(optimizer=keras.optimizers.SGD(0.05), jit_compile=False)
    return model.fit(x, y, batch_size=8, epochs=6, shuffle=False, verbose=0).history["loss"]


content = {"embedding_image": rng.normal(size=(8, 6)), "embedding_text": rng.normal(size=(8, 5))}
content |= {"image_mask": np.ones(8), "text_mask": np.ones(8)}
content = {name: values.astype("float32") for name, values in content.items()}
towers = [EmbeddingTower(6, "image", "image"), EmbeddingTower(5, "text")]
encoder = ItemEncoder(8, embedding_towers=towers)
losses = {"stage 1": train(ImageTextAlignment(encoder, PretrainConfig(temperature=0.5)), content)}
config = CsftConfig(queue_size=0, log_q=False, modality_dropout=0.0, temperature=0.5, align_weight=0.1)
csft = Csft(encoder, config, num_items=8)
features = {f"{name}_features": content[f"embedding_{name}"] for name in ("image", "text")}
features |= {name: content[name] for name in ("image_mask", "text_mask")}
csft.set_data({name: np.concatenate([np.zeros_like(v[:1]), v]) for name, v in features.items()})
rows = np.arange(1, 9, dtype="int32")
pairs = {"query_rows": np.roll(rows, 1)[:, None], "item_row": rows, "key": rows}
losses["stage 2"] = train(csft, {**pairs, "hard_negative_rows": np.zeros((8, 0), "int32")})
data = ItemTableData.from_items(np.eye(8, dtype="float32"), np.ones(8, bool), [["a"]] * 8, np.arange(8))
ranker = CiUBM(preset("tiny").ciubm, VocabularySizes(3), ItemTable.from_data(data))
history = rng.integers(0, 9, (8, 8)).astype("int32")
x = {"item_row": rows, "history_rows": history, "history_ages": history * 60, "user_index": rows % 3}
losses["stage 3"] = train(ranker, x, (rows % 2).astype("float32"))
print(json.dumps(losses))
"""


def losses(backend: str) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "without" if backend == "jax" else "with"],
        env={**os.environ, "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_stage_trains_as_with_tensorflow() -> None:
    on_jax, on_tensorflow = losses("jax"), losses("tensorflow")
    assert set(on_jax) == {"stage 1", "stage 2", "stage 3"}
    for stage, found in on_jax.items():
        assert found[-1] < found[0], stage
        np.testing.assert_allclose(found, on_tensorflow[stage], rtol=1e-3, err_msg=stage)
