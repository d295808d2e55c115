"""How a ranker is judged: TFMA's configuration, and GAUC as a TFMA metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.proto import config_pb2

from mim_keras.metrics.gauc import gauc
from tfx_pipeline.preprocessing import LABEL
from tfx_pipeline.settings import EvaluationConfig

SIGNATURE, PREDICTION = "serve_examples", "ctr"
SEGMENT, LAUNCHED, USER = "segment", "launched", "user_id"
GAUC_NAME = "gauc"
CLICK_ALONE: Mapping[str, str] = {LABEL: PREDICTION}


class GAUC(metric_types.Metric):
    """Area under the ROC curve within each user, averaged by rows; users with one label only are left out.

    Not a query metric, though it groups by user: TFMA puts a whole query into every slice that one of its rows
    belongs to, so that a user's warm rows would count in the cold slice.  The rows of a slice (user, label,
    score: 17 bytes each) are kept until the end instead.

    Args:
        user_key: The feature that names the user.
        code: Fingerprint of the code that evaluates, so that a cached evaluation is of the same code.

    Source: Zhu et al. 2017 (1703.02091).
    """

    def __init__(self, user_key: str = USER, name: str = GAUC_NAME, code: str = "") -> None:
        computations = metric_util.merge_per_key_computations(_computations)
        super().__init__(computations, user_key=user_key, name=name, code=code)


metric_types.register_metric(GAUC)


def _computations(
    user_key: str = USER,
    name: str = GAUC_NAME,
    eval_config: config_pb2.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
    **_: Any,
) -> list[metric_types.MetricComputation]:
    key = metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
    combiner = _Combiner(key, eval_config, user_key)
    features = [metric_types.FeaturePreprocessor(feature_keys=[user_key])]
    return [metric_types.MetricComputation(keys=[key], preprocessors=features, combiner=combiner)]


class _Rows:
    """Users (hashed), labels and scores, as a list that is packed now and then."""

    def __init__(self) -> None:
        self.packed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.loose: list[tuple[int, int, float]] = []

    def pack(self) -> None:
        if self.loose:
            user, label, score = zip(*self.loose, strict=True)
            self.packed.append((np.array(user, np.int64), np.array(label, np.int8), np.array(score, np.float64)))
            self.loose = []


class _Combiner(beam.CombineFn):
    """Gathers the rows of one slice."""

    def __init__(self, key: metric_types.MetricKey, eval_config: config_pb2.EvalConfig | None, user_key: str) -> None:
        self._key, self._eval_config, self._user_key = key, eval_config, user_key

    def create_accumulator(self) -> _Rows:
        return _Rows()

    def add_input(self, accumulator: _Rows, element: metric_types.StandardMetricInputs) -> _Rows:
        user = np.asarray(element.features[self._user_key]).flatten()
        if user.size != 1:
            raise ValueError(f"GAUC needs one value of {self._user_key} a row; received {user!r}")
        hashed = hashlib.blake2b(str(user[0]).encode(), digest_size=8).digest()
        for label, prediction, _ in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
        ):
            number = int.from_bytes(hashed, "little", signed=True)
            accumulator.loose.append((number, int(label[0]), float(prediction[0])))
        if len(accumulator.loose) >= 4_096:
            accumulator.pack()
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Rows]) -> _Rows:
        merged = _Rows()
        for part in accumulators:
            part.pack()
            merged.packed += part.packed
        return merged

    def compact(self, accumulator: _Rows) -> _Rows:
        accumulator.pack()
        return accumulator

    def extract_output(self, accumulator: _Rows) -> dict[metric_types.MetricKey, float]:
        accumulator.pack()
        if not accumulator.packed:
            return {self._key: float("nan")}
        user, label, score = (np.concatenate(column) for column in zip(*accumulator.packed, strict=True))
        return {self._key: gauc(user, label, score)}


def eval_config(
    settings: EvaluationConfig,
    gated: bool = True,
    has_baseline: bool = True,
    by_launch: bool = False,
    code: str = "",
    labels: Mapping[str, str] = CLICK_ALONE,
) -> config_pb2.EvalConfig:
    """AUC, LogLoss, Calibration, ExampleCount and GAUC, over all rows and in the slices cold, tail and rest.

    Thresholds are of the click; of a further label the same metrics are computed for the candidate, since the last
    released ranker may lack the label.

    Args:
        settings: Thresholds.
        gated: Whether the thresholds are set, and so a blessing is given.
        has_baseline: Whether the ranker is also held against the last released one.
        by_launch: Whether items are held back for the test, so that there are slices new and known.
        code: See `GAUC`.
        labels: Label → the ranker's output that predicts it, the click first.
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
    sliced_by = (SEGMENT, LAUNCHED) if by_launch else (SEGMENT,)
    by_row = [auc, count]
    by_row += [config_pb2.MetricConfig(class_name=name) for name in ("BinaryCrossEntropy", "Calibration", "MeanLabel")]
    by_row.append(config_pb2.MetricConfig(class_name="GAUC", module=__name__, config=json.dumps({"code": code})))
    slices = [*everything, *(config_pb2.SlicingSpec(feature_keys=[name]) for name in sliced_by)]
    if len(labels) == 1:
        spec = config_pb2.ModelSpec(signature_name=SIGNATURE, label_key=LABEL, prediction_key=PREDICTION)
        metrics = [config_pb2.MetricsSpec(metrics=by_row)]
        return config_pb2.EvalConfig(model_specs=[spec], slicing_specs=slices, metrics_specs=metrics)
    of_output = {output: label for label, output in labels.items()}
    keys = {"label_keys": of_output, "prediction_keys": {output: output for output in of_output}}
    names = ("candidate", "baseline") if has_baseline else ("",)
    specs = [
        config_pb2.ModelSpec(signature_name=SIGNATURE, name=name, is_baseline=name == "baseline", **keys)
        for name in names
    ]
    without_thresholds = [
        config_pb2.MetricConfig(class_name=one.class_name, module=one.module, config=one.config) for one in by_row
    ]
    further = [output for output in of_output if output != PREDICTION]
    metrics = [
        config_pb2.MetricsSpec(metrics=by_row, output_names=[PREDICTION]),
        config_pb2.MetricsSpec(metrics=without_thresholds, output_names=further, model_names=names[:1]),
    ]
    return config_pb2.EvalConfig(model_specs=specs, slicing_specs=slices, metrics_specs=metrics)
