"""What a test needs of whichever backend Keras runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def numbers(values: Any) -> np.ndarray:
    """Tensors and variables of any backend."""
    return keras.ops.convert_to_numpy(values)


def compiled(function: Callable[..., Any], **inputs: np.ndarray) -> np.ndarray:
    """What `function` returns when XLA compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return numbers(jax.jit(function)(**inputs))
    import tensorflow as tf

    return numbers(tf.function(lambda: function(**inputs), jit_compile=True)())


def gradients(layer: Any, loss: Callable[[], Any]) -> list[np.ndarray | None]:
    """Of `loss()` with respect to the layer's trainable variables; None where it does not depend on one."""
    variables = layer.trainable_variables
    if keras.backend.backend() == "jax":
        import jax

        def of(values: list[Any]) -> Any:
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return loss()

        return [numbers(gradient) for gradient in jax.grad(of)([variable.value for variable in variables])]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        total = loss()
    found = tape.gradient(total, [variable.value for variable in variables])
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in found]
