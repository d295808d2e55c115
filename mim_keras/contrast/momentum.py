"""Momentum keys: weights that follow the trained ones slowly, so that what a queue holds does not age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("mim")
class Followers(keras.layers.Layer):
    """Copies of weights that follow them: in each step, before the queue takes vectors in, w' ← m · w' + (1 − m) · w.

    Args:
        followed: The weights that learn.
        momentum: m, below 1; .999 follows over a thousand steps.

    Source: MoCo (1911.05722), equation 2.
    """

    def __init__(self, followed: Sequence[Any], momentum: float, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self._followed, self.momentum = tuple(followed), momentum
        # Every replica follows the same weights, with a copy of its own: the copies stay equal without a word.
        options = {"trainable": False, "aggregation": "only_first_replica", "synchronization": "on_read"}
        self.copies = [keras.Variable(ops.copy(weight.value), name="copy", **options) for weight in self._followed]
        self.built = True

    def follow(self) -> None:
        """One step towards the weights as they are."""
        for copy, weight in zip(self.copies, self._followed, strict=True):
            now = ops.cast(ops.stop_gradient(ops.convert_to_tensor(weight)), copy.dtype)
            copy.assign(self.momentum * ops.convert_to_tensor(copy) + (1 - self.momentum) * now)

    def in_place(self, others: Sequence[Any]) -> keras.StatelessScope:
        """A scope in which the copies stand in the weights' place.

        Args:
            others: All further variables that are read in the scope.
        """
        followed = {id(weight) for weight in self._followed}
        as_they_are = [(other, ops.convert_to_tensor(other)) for other in others if id(other) not in followed]
        copies = [ops.stop_gradient(ops.convert_to_tensor(copy)) for copy in self.copies]
        return keras.StatelessScope([*as_they_are, *zip(self._followed, copies, strict=True)])
