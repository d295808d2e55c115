"""What a test needs of whichever backend Keras runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

HALVES = ("bfloat16", "float16")


def numbers(values: Any) -> np.ndarray:
    """Tensors and variables of any backend, half precision as float32."""
    return np.asarray(keras.ops.convert_to_numpy(values))


def leaves(values: Any) -> list[np.ndarray]:
    """The tensors of a nested output, as float32 where they are half precision."""
    flat = [one for one in keras.tree.flatten(values) if one is not None]
    is_half = [keras.backend.standardize_dtype(one.dtype) in HALVES for one in flat]
    return [numbers(keras.ops.cast(one, "float32") if h else one) for one, h in zip(flat, is_half, strict=True)]


def compiled(function: Callable[..., Any], **inputs: Any) -> Any:
    """What `function` returns when XLA compiles it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)(**inputs)
    import tensorflow as tf

    return tf.function(lambda: function(**inputs), jit_compile=True)()


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


@contextmanager
def half_precision(kind: str = "bfloat16") -> Iterator[None]:
    """What is made inside computes in bfloat16 or float16, with weights in float32."""
    keras.config.set_dtype_policy(f"mixed_{kind}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")
