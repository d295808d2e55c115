"""Arrays that a model reads and no file of the model holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from mim_keras.layers.base import TracedSpec


@keras.saving.register_keras_serializable("mim")
class AuxiliaryData(TracedSpec, keras.layers.Layer):
    """Named arrays that stay as they are: tower features, popularity, known positives.

    They are data, not weights: neither `weights` nor a checkpoint, a `.keras` file or a warm start holds them.  After
    loading a model call `set_data` again.

    Call arguments:
        rows: int [...].

    Returns:
        The rows of every array, {name: [..., dim]}.

    Example:
        >>> import numpy as np
        >>> from mim_keras.layers import AuxiliaryData
        >>> table = AuxiliaryData()
        >>> table.set_data({"popularity": np.array([0.0, 0.5, 0.25], "float32")})
        >>> table(np.array([2, 1]))["popularity"].numpy().tolist(), table.weights
        ([0.25, 0.5], [])
    """

    skipped_by_checkpoints = True  # no file holds the arrays

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self._data: dict[str, Any] = {}

    def set_data(self, data: Mapping[str, np.ndarray]) -> None:
        """Sets the arrays, [rows, ...] each; under a strategy call it in the strategy's scope."""
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Not Keras variables, which would be weights; TensorFlow tracks them for a SavedModel.
            self._data = {name: tf.Variable(values, trainable=False, name=name) for name, values in data.items()}
        else:
            self._data = {name: ops.convert_to_tensor(values) for name, values in data.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays; none before `set_data`."""
        return tuple(self._data)

    def all(self, name: str) -> Any:
        """One whole array."""
        if name not in self._data:
            known = ", ".join(self._data) or "nothing"
            raise ValueError(
                f"an AuxiliaryData has the arrays given to set_data; received {name!r} of {known}. Set it."
            )
        return ops.convert_to_tensor(self._data[name])

    def build(self, rows_shape: Any) -> None:
        """There are no weights."""

    def call(self, rows: Any) -> dict[str, Any]:
        return {name: ops.take(self.all(name), rows, axis=0) for name in self._data}

    def compute_output_shape(self, rows_shape: Any) -> dict[str, tuple]:
        return {name: (*rows_shape, *values.shape[1:]) for name, values in self._data.items()}
