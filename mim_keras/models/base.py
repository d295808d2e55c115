"""What the models of the three stages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from mim_keras.layers.base import ConfigurableModel, TracedSpec
from mim_keras.ops.distribution import is_multi_worker


class StageModel(TracedSpec, ConfigurableModel, keras.Model):
    """A Keras model that its constructor builds, with default losses, on any strategy.

    `compile()` without a loss uses `default_losses` and `default_loss_weights`; a loss or metric that is not a mapping
    goes to every output with a default loss, or to `primary_output`.  Labels may be one array for all outputs.

    Under a strategy of several replicas Keras' own `fit` fails: to build a model it averages a batch over the replicas,
    which no bool and no nested batch allows (keras issue 20585), and several workers average metrics over an axis that
    a scalar lacks (20329).  These models build losses and metrics from the first replica's batch, and give each metric
    an axis of one.
    """

    built: bool
    primary_output = ""  # the output that metrics are of, where they are not a mapping; "": there are none

    def default_losses(self) -> dict[str, Any]:
        """The loss of each output that has one."""
        raise NotImplementedError

    def default_loss_weights(self) -> dict[str, float]:
        """Weights of these losses."""
        return dict.fromkeys(self.default_losses(), 1.0)

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **options: Any,
    ) -> None:
        """As `keras.Model.compile`, with the defaults of `default_losses`."""
        if loss is None:
            loss, loss_weights = self.default_losses(), loss_weights or self.default_loss_weights()
        elif not isinstance(loss, Mapping):
            loss, loss_weights = dict.fromkeys(self.default_losses(), loss), loss_weights or self.default_loss_weights()
        options |= {"metrics": self._by_output(metrics), "weighted_metrics": self._by_output(weighted_metrics)}
        super().compile(optimizer=optimizer, loss=dict(loss), loss_weights=loss_weights, **options)

    def _by_output(self, metrics: Any) -> Any:
        if metrics and not self.primary_output:
            raise ValueError(
                f"{type(self).__name__} has no output with labels, so that it takes no metrics; received {metrics}. "
                "Pass none: it reports its losses."
            )
        return {self.primary_output: metrics} if metrics and not isinstance(metrics, Mapping) else metrics

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model as the saved one was."""
        self.compile(**{name: keras.saving.deserialize_keras_object(value) for name, value in config.items()})
        self.optimizer.build(self.trainable_variables)

    def rowwise_options(self) -> dict[str, Any]:
        """Arguments of `RowwiseAdam` for embedding tables that are updated by rows; {} where there are none."""
        return {}

    def labels_by_output(self, y: Any, y_pred: Mapping[str, Any]) -> Any:
        """One array of labels, given to every output."""
        return y if y is None or isinstance(y, Mapping) else dict.fromkeys(y_pred, y)

    def weights_by_output(self, sample_weight: Any, y_pred: Mapping[str, Any]) -> Any:
        """Sample weights as Keras takes them for these outputs."""
        return sample_weight

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        labels, weights = self.labels_by_output(y, y_pred), self.weights_by_output(sample_weight, y_pred)
        return super().compute_loss(x, labels, y_pred, sample_weight=weights, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        labels, weights = self.labels_by_output(y, y_pred), self.weights_by_output(sample_weight, y_pred)
        metrics: dict[str, Any] = super().compute_metrics(x, labels, y_pred, weights)
        return metrics

    def input_signature(self) -> Any:
        """Input specs of `call`, for `export`."""
        raise NotImplementedError

    def build_from_signature(self) -> None:
        """Builds the model for inputs of `input_signature`; called by its constructor."""
        self.build({name: (2, *(n or 2 for n in spec.shape[1:])) for name, spec in self.input_signature().items()})

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shapes of the outputs, by name, for inputs of these shapes."""
        specs = self.input_signature()
        dtypes = {name: specs[name].dtype if name in specs else "float32" for name in input_shape}
        inputs = {name: keras.KerasTensor(shape, dtypes[name]) for name, shape in input_shape.items()}
        return keras.tree.map_structure(lambda output: tuple(output.shape), self.compute_output_spec(inputs))

    def fit(self, x: Any = None, y: Any = None, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.fit`; sample weights count without labels too, which Keras drops."""
        held_out = options.get("validation_data")
        if isinstance(held_out, tuple) and len(held_out) == 3 and held_out[1] is None:
            weights = {"sample_weight": held_out[2]}
            options["validation_data"] = (held_out[0], self._dummy_labels(None, weights), held_out[2])
        return super().fit(x, self._dummy_labels(y, options), *arguments, **options)

    def evaluate(self, x: Any = None, y: Any = None, *arguments: Any, **options: Any) -> Any:
        """As `keras.Model.evaluate`; sample weights count without labels too, which Keras drops."""
        return super().evaluate(x, self._dummy_labels(y, options), *arguments, **options)

    @staticmethod
    def _dummy_labels(y: Any, options: dict[str, Any]) -> Any:
        weights = options.get("sample_weight")
        return np.zeros(len(weights), "float32") if y is None and weights is not None else y

    def export(
        self, filepath: Any, format: str = "tf_saved_model", input_signature: Any = None, **options: Any
    ) -> None:
        """As `keras.Model.export`, with the dtypes that the model reads."""
        super().export(filepath, format=format, input_signature=input_signature or [self.input_signature()], **options)

    # -- strategies ----------------------------------------------------------------------------------------

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self.distribute_strategy
        if strategy is None or (strategy.num_replicas_in_sync == 1 and not is_multi_worker(strategy)):
            super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
            return
        if iterator is not None:
            data_batch = next(next(batches for _, _, batches in iterator))
        own = keras.tree.map_structure(lambda values: strategy.experimental_local_results(values)[0], data_batch)
        with strategy.scope():
            self._symbolic_build(data_batch=own)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        metrics = super().train_step(*args, **kwargs)
        if not is_multi_worker():
            return metrics
        return {name: keras.ops.reshape(value, (1,)) for name, value in metrics.items()}
