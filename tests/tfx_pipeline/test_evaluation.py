"""GAUC inside TFMA, merged in any way, against the independent computation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tensorflow_model_analysis.metrics import metric_types

from tfx_pipeline.evaluation import _Combiner, eval_config
from tfx_pipeline.settings import EvaluationConfig


def sklearn_gauc(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> float:
    own = [(user == one) for one in np.unique(user)]
    both = [rows for rows in own if len(np.unique(label[rows])) == 2]
    return float(np.average([roc_auc_score(label[r], score[r]) for r in both], weights=[r.sum() for r in both]))


def test_combiner_merges_to_scikit_learns_figure(rng: np.random.Generator) -> None:
    user, label, score = rng.integers(0, 9, 120), rng.integers(0, 2, 120), rng.random(120).astype(np.float32)
    key = metric_types.MetricKey("gauc")
    combiner = _Combiner(key, None, "user_id")
    parts = [combiner.create_accumulator() for _ in range(5)]
    for row in range(120):
        element = metric_types.StandardMetricInputs(
            labels=label[row : row + 1].astype(np.float32),
            predictions=score[row : row + 1],
            example_weights=np.ones(1, np.float32),
            features={"user_id": np.array([f"u{user[row]}".encode()])},
        )
        parts[row % 5] = combiner.add_input(parts[row % 5], element)
    merged = combiner.merge_accumulators([combiner.merge_accumulators(parts[:2]), *map(combiner.compact, parts[2:])])
    assert combiner.extract_output(merged)[key] == pytest.approx(sklearn_gauc(user, label, score))
    assert np.isnan(combiner.extract_output(combiner.create_accumulator())[key])


def test_a_row_without_its_user_is_refused() -> None:
    element = metric_types.StandardMetricInputs(features={"user_id": np.array([])})
    combiner = _Combiner(metric_types.MetricKey("gauc"), None, "user_id")
    with pytest.raises(ValueError, match="GAUC needs one value of user_id a row"):
        combiner.add_input(combiner.create_accumulator(), element)


def test_thresholds_name_the_whole_test_set_alone() -> None:
    config = eval_config(EvaluationConfig(min_auc=0.6, max_auc_drop=0.01, min_examples=50))
    auc, count = config.metrics_specs[0].metrics[:2]
    assert not auc.threshold.ByteSize()
    assert auc.per_slice_thresholds[0].threshold.value_threshold.lower_bound.value == 0.6
    assert auc.per_slice_thresholds[0].threshold.change_threshold.absolute.value == -0.01
    assert count.per_slice_thresholds[0].threshold.value_threshold.lower_bound.value == 50
    first = eval_config(EvaluationConfig(), has_baseline=False).metrics_specs[0].metrics[0]
    assert not first.per_slice_thresholds[0].threshold.HasField("change_threshold")
    free = eval_config(EvaluationConfig(), gated=False).metrics_specs[0].metrics[0]
    assert not free.per_slice_thresholds
