"""How a ranker is judged: TFMA's configuration, and GAUC as a TFMA metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import util

from mim_keras.metrics.gauc import group_areas
from tfx_pipeline.preprocessing import LABEL
from tfx_pipeline.settings import EvaluationConfig

SIGNATURE, PREDICTION = "serve_examples", "ctr"
SEGMENT, USER = "segment", "user_id"
GAUC_NAME = "gauc"
Accumulator = tuple[float, float]  # Σ area · rows, Σ rows


class GAUC(metric_types.Metric):
    """Area under the ROC curve within each user, averaged by rows; users with one label only are left out.

    A query metric: the metrics spec's `query_key` names the user.
    Source: Zhu et al. 2017 (1703.02091).
    """

    def __init__(self, name: str = GAUC_NAME) -> None:
        super().__init__(_computations, name=name)


metric_types.register_metric(GAUC)


def _computations(
    name: str = GAUC_NAME,
    eval_config: config_pb2.EvalConfig | None = None,
    model_names: list[str] | None = None,
    output_names: list[str] | None = None,
    sub_keys: list[Any] | None = None,
    example_weighted: bool = False,
    query_key: str = "",
) -> list[metric_types.MetricComputation]:
    if not query_key:
        raise ValueError(
            "GAUC needs the query_key of its metrics spec, the feature that names the user; none was given"
        )
    computations = []
    for model_name in model_names or [""]:
        for output_name in output_names or [""]:
            key = metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
            combiner = _Combiner(key, eval_config, query_key)
            features = [metric_types.CombinedFeaturePreprocessor(feature_keys=[query_key])]
            computations.append(metric_types.MetricComputation(keys=[key], preprocessors=features, combiner=combiner))
    return computations


class _Combiner(beam.CombineFn):
    """Adds up the areas of users; each element holds all rows of one user."""

    def __init__(self, key: metric_types.MetricKey, eval_config: config_pb2.EvalConfig | None, query_key: str) -> None:
        self._key, self._eval_config, self._query_key = key, eval_config, query_key

    def create_accumulator(self) -> Accumulator:
        return 0.0, 0.0

    def add_input(self, accumulator: Accumulator, element: metric_types.StandardMetricInputs) -> Accumulator:
        user = util.get_by_keys(element.combined_features, [self._query_key]).flatten()
        if user.size == 0 or not np.all(user == user[0]):
            raise ValueError(f"each group must hold the rows of one {self._query_key}; received {user!r}")
        label, prediction, _ = next(
            metric_util.to_label_prediction_example_weight(
                element,
                eval_config=self._eval_config,
                model_name=self._key.model_name,
                output_name=self._key.output_name,
                flatten=False,
            )
        )
        label = np.asarray(label).flatten()
        areas, rows = group_areas(np.zeros(len(label), np.int8), label, np.asarray(prediction).flatten())
        return accumulator[0] + float(np.dot(areas, rows)), accumulator[1] + float(rows.sum())

    def merge_accumulators(self, accumulators: Iterable[Accumulator]) -> Accumulator:
        parts = list(accumulators)
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def extract_output(self, accumulator: Accumulator) -> dict[metric_types.MetricKey, float]:
        return {self._key: accumulator[0] / accumulator[1] if accumulator[1] else float("nan")}


def eval_config(settings: EvaluationConfig, gated: bool = True, has_baseline: bool = True) -> config_pb2.EvalConfig:
    """AUC, LogLoss, Calibration, ExampleCount and GAUC, over all rows and in the slices cold, tail and rest.

    Args:
        settings: Thresholds.
        gated: Whether the thresholds are set, and so a blessing is given.
        has_baseline: Whether the ranker is also held against the last blessed one.
    """
    everything = [config_pb2.SlicingSpec()]
    auc = config_pb2.MetricConfig(class_name="AUC")
    count = config_pb2.MetricConfig(class_name="ExampleCount")
    if gated:
        # Thresholds name the whole test set: a handful of cold rows must not veto a push.
        auc_threshold = config_pb2.MetricThreshold(
            value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": settings.min_auc})
        )
        if has_baseline:
            auc_threshold.change_threshold.direction = config_pb2.MetricDirection.HIGHER_IS_BETTER
            auc_threshold.change_threshold.absolute.value = -settings.max_auc_drop
        auc.per_slice_thresholds.add(slicing_specs=everything, threshold=auc_threshold)
        rows = config_pb2.GenericValueThreshold(lower_bound={"value": settings.min_examples})
        count.per_slice_thresholds.add(
            slicing_specs=everything, threshold=config_pb2.MetricThreshold(value_threshold=rows)
        )
    by_row = [auc, count]
    by_row += [config_pb2.MetricConfig(class_name=name) for name in ("BinaryCrossEntropy", "Calibration")]
    return config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(signature_name=SIGNATURE, label_key=LABEL, prediction_key=PREDICTION)],
        slicing_specs=[config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=[SEGMENT])],
        metrics_specs=[
            config_pb2.MetricsSpec(metrics=by_row),
            config_pb2.MetricsSpec(
                metrics=[config_pb2.MetricConfig(class_name="GAUC", module=__name__)], query_key=USER
            ),
        ],
    )
