"""The paired bootstrap against the ablation's own figures, and what is said where scores are missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.peer_rows import index_of, laid_out
from benchmarks.peers import compare, markdown, our_scores, weighted_auc, weighted_gauc
from mim_keras.metrics.gauc import auc, gauc
from tfx_pipeline.ablation.evaluate import Rows

USERS, ROWS = 40, 1_000


def drawn_rows(rng: np.random.Generator) -> Rows:
    """Rows of users whose numbers have gaps, one slice of them."""
    label = (rng.random(ROWS) < 0.4).astype(np.float32)
    person = 3 * rng.integers(0, USERS, ROWS)
    return Rows(person, label, {"cold": rng.random(ROWS) < 0.3})


def noisy(rows: Rows, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Scores that know the label more or less, some of them equal."""
    score: np.ndarray = np.round(rows.label + noise * rng.standard_normal(ROWS), 1)
    return score


def test_weights_are_rows_that_stand_there_so_often(rng: np.random.Generator) -> None:
    rows = drawn_rows(rng)
    score, person = noisy(rows, 1.0, rng), rows.person // 3
    times = rng.multinomial(USERS, np.full(USERS, 1 / USERS))
    often = np.repeat(np.arange(ROWS), times[person])
    area, mean = (make(person, rows.label, score) for make in (weighted_auc, weighted_gauc))
    assert area(times.astype(float)) == pytest.approx(auc(rows.label[often], score[often]), abs=1e-12)
    assert area(np.ones(USERS)) == pytest.approx(auc(rows.label, score), abs=1e-12)
    # a user drawn twice counts as two, each with the same area
    assert mean(times.astype(float)) == pytest.approx(gauc(person[often], rows.label[often], score[often]), abs=1e-12)


def test_one_pair_has_the_interval_of_resampled_users(rng: np.random.Generator) -> None:
    rows = drawn_rows(rng)
    ours, peer = noisy(rows, 0.8, rng), noisy(rows, 1.2, rng)
    table = {(row["slice"], row["figure"]): row for row in compare(rows, [ours], [peer], draws=400)}
    assert set(table) == {(part, figure) for part in ("all", "cold") for figure in ("auc", "gauc")}
    cold = rows.slices["cold"]
    row = table["cold", "auc"]
    assert row["ours"] == auc(rows.label[cold], ours[cold])
    assert row["difference"] == pytest.approx(row["ours"] - auc(rows.label[cold], peer[cold]))

    other, differences = np.random.default_rng(9), []
    own = [np.flatnonzero(rows.person == 3 * user) for user in range(USERS)]
    for _ in range(400):
        often = np.concatenate([own[user] for user in other.integers(0, USERS, USERS)])
        differences.append(auc(rows.label[often], ours[often]) - auc(rows.label[often], peer[often]))
    low, high = np.quantile(differences, (0.025, 0.975))
    assert table["all", "auc"]["interval"] == pytest.approx([low, high], abs=0.25 * (high - low))


def test_pairs_are_drawn_too_and_equal_models_do_not_differ(rng: np.random.Generator) -> None:
    rows = drawn_rows(rng)
    same = [noisy(rows, noise, rng) for noise in (0.5, 1.0)]
    for row in compare(rows, same, same, draws=20):
        assert (row["difference"], row["interval"]) == (0, [0, 0])
    # of two pairs one differs: most draws hold it none, one or two times, whichever users they hold
    perfect = rows.label.astype(float)
    row = compare(rows, [perfect, perfect], [perfect, 1 - perfect], draws=200)[0]
    assert (row["difference"], row["interval"]) == (0.5, [0, 1])
    assert "| all: AUC | 1.0000 | 0.5000 | +0.5000 | +0.0000 to +1.0000 |" in markdown([row])


def test_missing_scores_are_told(rng: np.random.Generator, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ablation.json lacks variant full, seeds 1, 2\. Run `mim ablate`"):
        our_scores(tmp_path, "full", (1, 2))
    scores = rng.random(ROWS).astype(np.float32)
    np.save(tmp_path / "one.npy", scores)
    (tmp_path / "ablation.json").write_text(json.dumps({"results": {"full": {"1": {"scores": "one.npy"}}}}))
    np.testing.assert_array_equal(our_scores(tmp_path, "full", (1,)), [scores])
    with pytest.raises(SystemExit, match=r"lacks variant full, seeds 2\."):
        our_scores(tmp_path, "full", (1, 2))


def test_lists_become_a_table_of_the_latest() -> None:
    lists = pa.array([[1, 2, 3], [], [4]], pa.list_(pa.int64()))
    np.testing.assert_array_equal(laid_out(lists, lists.values.to_numpy(), 2), [[2, 3], [0, 0], [4, 0]])


def test_places_are_those_among_the_known() -> None:
    np.testing.assert_array_equal(index_of(pa.array([b"b", b"a"]), pa.array([b"a", b"c"])), [-1, 0])
