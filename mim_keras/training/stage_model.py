"""What the models of the three stages share as models that Keras trains."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.training.replicas import several_workers


class StageModel(keras.Model):
    """A Keras model whose `fit` also works under MultiWorkerMirroredStrategy.

    Keras' own fails there twice (keras issues 20585 and 20329): it reduces a nested batch of all workers to build the
    model, and takes the mean of each figure over an axis that a scalar does not have.  `training.fit` builds the model
    beforehand, and here each figure gets an axis of one.
    """

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        if not several_workers(self.distribute_strategy):
            super()._maybe_symbolic_build(*args, **kwargs)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        figures = super().train_step(*args, **kwargs)
        if not several_workers():
            return figures
        return {name: keras.ops.reshape(value, (1,)) for name, value in figures.items()}
