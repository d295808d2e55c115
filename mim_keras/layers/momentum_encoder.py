"""Momentum encoder: an exponential moving average of an encoder's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from mim_keras.layers.base import Configurable


@keras.saving.register_keras_serializable("mim")
class MomentumEncoder(Configurable, keras.layers.Layer):
    """An encoder with averaged weights, w' ← m · w' + (1 − m) · w at each `update`.

    It fills a queue of negatives, so that embeddings of earlier batches stay comparable.

    Args:
        encoder: A built layer or model whose trainable weights are averaged.
        momentum: m, below 1; .999 averages over a thousand steps.

    Call arguments:
        inputs: Of the encoder.

    Returns:
        What the encoder returns with the averaged weights; no gradient flows.

    Example:
        >>> import keras, numpy as np
        >>> from mim_keras.layers import MomentumEncoder
        >>> encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> momentum_encoder = MomentumEncoder(encoder, momentum=0.9)
        >>> encoder.set_weights([np.zeros((2, 1)), np.zeros(1)])
        >>> momentum_encoder.update()
        >>> momentum_encoder(np.ones((1, 2), "float32")).numpy().round(2).tolist()
        [[1.7999999523162842]]

    Source: MoCo (1911.05722), equation 2.
    """

    config_names = ("momentum",)
    config_parts = ("encoder",)

    def __init__(self, encoder: Any, momentum: float, **kwargs: Any) -> None:
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is in [0, 1); received {momentum}. 0.999 is usual.")
        self.encoder, self.momentum = encoder, momentum
        self._averaged = tuple(encoder.trainable_variables)
        # Every replica averages the same weights into its own copy, so that the copies stay equal without
        # communication.
        options = {"trainable": False, "aggregation": "only_first_replica", "synchronization": "on_read"}
        self.ema_variables = [
            keras.Variable(ops.copy(weight.value), name=f"ema_{index}", **options)
            for index, weight in enumerate(self._averaged)
        ]
        self.built = True

    def update(self) -> None:
        """One step of the moving average."""
        for average, weight in zip(self.ema_variables, self._averaged, strict=True):
            current = ops.cast(ops.stop_gradient(ops.convert_to_tensor(weight)), average.dtype)
            average.assign(self.momentum * ops.convert_to_tensor(average) + (1 - self.momentum) * current)

    def scope(self, variables: Sequence[Any] = ()) -> keras.StatelessScope:
        """A scope in which the encoder's weights are the averaged ones.

        Args:
            variables: Further variables that are read in the scope.
        """
        averaged = {id(weight) for weight in self._averaged}
        others = [(one, ops.convert_to_tensor(one)) for one in variables if id(one) not in averaged]
        averages = [ops.stop_gradient(ops.convert_to_tensor(average)) for average in self.ema_variables]
        return keras.StatelessScope([*others, *zip(self._averaged, averages, strict=True)])

    def call(self, inputs: Any) -> Any:
        with self.scope(self.encoder.non_trainable_variables):
            return self.encoder(inputs, training=False)

    def compute_output_shape(self, inputs_shape: Any) -> Any:
        return self.encoder.compute_output_shape(inputs_shape)
