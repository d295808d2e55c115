"""The streaming GAUC against the exact one, however the rows arrive."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mim_keras.metrics.gauc import gauc
from mim_keras.metrics.streaming_gauc import StreamingGAUC

pytestmark = pytest.mark.any_backend

BINS = 17
row = st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(0, 1))


@given(st.lists(row, min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_any_batches_give_the_exact_figure_of_rounded_scores(rows: list[tuple[int, int, float]], batch: int) -> None:
    user, label, score = (np.array(values) for values in zip(*rows, strict=True))
    metric = StreamingGAUC(users=4, bins=BINS)
    for begin in range(0, len(rows), batch):
        part = slice(begin, begin + batch)
        metric.update_state(label[part], score[part].astype("float32"), user=user[part])
    rounded = np.rint(score.astype("float32") * np.float32(BINS - 1))
    assert float(metric.result()) == pytest.approx(gauc(user, label, rounded), abs=1e-5, nan_ok=True)


def test_weights_reset_and_saving() -> None:
    metric = StreamingGAUC(users=2)
    metric.update_state([1, 0, 0], [0.9, 0.2, 0.95], user=[0, 0, 0], sample_weight=[1, 1, 0])
    assert float(metric.result()) == 1.0
    metric.reset_state()
    assert np.isnan(float(metric.result()))
    again = StreamingGAUC.from_config(metric.get_config())
    assert (again.users, again.bins, again.name) == (2, 256, "gauc")
    assert isinstance(keras.metrics.deserialize(keras.metrics.serialize(metric)), StreamingGAUC)


def test_fine_steps_come_close(rng: np.random.Generator) -> None:
    user, score = rng.integers(0, 50, 5000), rng.random(5000).astype("float32")
    label = (rng.random(5000) < score).astype(int)
    metric = StreamingGAUC(users=50, bins=1024)
    metric.update_state(label, score, user=user)
    assert float(metric.result()) == pytest.approx(gauc(user, label, score), abs=1e-4)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="received users=0, bins=256"):
        StreamingGAUC(users=0)


def test_a_nan_score_makes_the_result_nan_and_small_weights_count() -> None:
    metric = StreamingGAUC(users=2, bins=10)
    metric.update_state([1, 0], [0.9, 0.1], user=[0, 0], sample_weight=[1e-6, 1e-6])
    assert float(metric.result()) == pytest.approx(1.0)
    metric.update_state([1, 0], [0.9, float("nan")], user=[1, 1])
    assert np.isnan(float(metric.result()))
