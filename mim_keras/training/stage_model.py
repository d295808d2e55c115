"""What the models of the three stages share as models that Keras trains."""

from __future__ import annotations

from typing import Any

import keras

from mim_keras.training.replicas import several_workers


class StageModel(keras.Model):
    """A Keras model whose `fit` also works on several replicas, and under MultiWorkerMirroredStrategy.

    Keras' own fails there: to build the model it takes the mean of a batch over the replicas, and there is none of
    truth values, nor of a nested batch of all workers (keras issue 20585); and it takes the mean of each figure over an
    axis that a scalar does not have (20329).  `training.fit` builds the model beforehand, and here each figure gets an
    axis of one.

    Where a `StepGroup` comes for a batch, its steps are trained in a loop that is compiled with them: what TensorFlow
    does between two compiled steps took a tenth of a small model's time.

    Attributes:
        steps_in_loop: How many steps such a group is to have; 1: no groups.
    """

    steps_in_loop = 1

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        strategy = self.distribute_strategy
        ready = self.built and strategy is not None and strategy.num_replicas_in_sync > 1
        if not ready and not several_workers(strategy):
            super()._maybe_symbolic_build(*args, **kwargs)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        if keras.backend.backend() == "tensorflow":
            from mim_keras.training.step_groups import StepGroup, run_group

            if isinstance(args[0], StepGroup):
                run_group(super().train_step, args[0])
                return self.get_metrics_result()
        figures = super().train_step(*args, **kwargs)
        if not several_workers():
            return figures
        return {name: keras.ops.reshape(value, (1,)) for name, value in figures.items()}
