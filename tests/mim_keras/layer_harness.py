"""What every layer must survive: saving, half precision, compilation, and gradients where they are due."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.mim_keras.backend import compiled, gradients

HALVES = ("bfloat16", "float16")


@contextmanager
def half_precision(kind: str = "bfloat16") -> Iterator[None]:
    """What is made inside computes in bfloat16 or float16, with weights in float32."""
    keras.config.set_dtype_policy(f"mixed_{kind}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def check_layer(make: Any, inputs: dict[str, np.ndarray], floats: tuple[str, ...], tmp_path: Path) -> np.ndarray:
    """Runs the common checks on the layer that `make()` gives and returns its output on `inputs`.

    Args:
        make: Builds a fresh layer.
        inputs: Keyword arguments of the call.
        floats: Which of them are real numbers, and so symbolic inputs and subject to half precision.
    """
    layer = make()
    output = keras.ops.convert_to_numpy(layer(**inputs))
    assert np.all(np.isfinite(output))
    whole_numbers = output.dtype.kind in "iu"

    again = type(layer).from_config(layer.get_config())
    again(**inputs)
    again.set_weights(layer.get_weights())
    np.testing.assert_allclose(keras.ops.convert_to_numpy(again(**inputs)), output, rtol=1e-5, atol=1e-6)

    symbolic = {n: keras.Input(batch_shape=v.shape, dtype=str(v.dtype), name=n) for n, v in inputs.items()}
    model = keras.Model(symbolic, layer(**symbolic))
    model.save(tmp_path / "layer.keras")
    loaded = keras.saving.load_model(tmp_path / "layer.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(inputs), output, rtol=1e-5, atol=1e-6)

    np.testing.assert_allclose(compiled(layer, **inputs), output, rtol=1e-4, atol=1e-5)

    weights = np.sin(np.arange(output.size, dtype="float32")).reshape(output.shape)  # no sum that is always the same
    learns = layer.trainable_variables
    found = gradients(layer, lambda: keras.ops.sum(layer(**inputs) * weights)) if learns else []
    for variable, gradient in zip(layer.trainable_variables, found, strict=True):
        assert gradient is not None, f"no gradient reaches {variable.path}"
        assert np.any(gradient != 0), f"only zeros reach {variable.path}"

    for kind in HALVES:
        with half_precision(kind):
            half = make()
            half_output = half(**{n: keras.ops.cast(v, kind) if n in floats else v for n, v in inputs.items()})
        assert keras.backend.standardize_dtype(half_output.dtype) == (output.dtype if whole_numbers else kind)
        assert np.all(np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(half_output, "float32"))))
    return output
