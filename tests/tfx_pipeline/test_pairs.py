"""Hard negatives that are drawn, and those that are left out."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.config import ConfigError, ContrastTerm, CsftConfig, PretrainConfig, StagesConfig
from mim_keras.contrast.known_positives import ABSENT, KnownPositives
from tfx_pipeline.run_fns.pairs import Pairs

CATEGORIES = [["a"], ["a", "b"], ["b"], [], ["c"]]


def some_pairs() -> Pairs:
    item_row = np.repeat(np.arange(5), 200).astype(np.int32)
    key = np.arange(1000, dtype=np.int32)
    query = np.full((1000, 1), 3, np.int32)
    return Pairs(query, item_row, np.full((1000, 2), 4, np.int32), key, np.zeros(1000, bool))


def test_items_of_a_category_are_drawn_and_nothing_else() -> None:
    found = some_pairs().with_same_category(CATEGORIES, 3, seed=1)
    assert found.hard_rows.shape == (1000, 5)
    np.testing.assert_array_equal(found.hard_rows[:, :2], 4)
    drawn = [set(found.hard_rows[found.item_row == item, 2:].ravel().tolist()) for item in range(5)]
    assert drawn == [{1, ABSENT}, {0, 2, ABSENT}, {1, ABSENT}, {ABSENT}, {ABSENT}]
    again = some_pairs().with_same_category(CATEGORIES, 3, seed=1)
    np.testing.assert_array_equal(again.hard_rows, found.hard_rows)
    none = some_pairs().with_same_category([[]] * 5, 3, seed=1)
    assert (none.hard_rows[:, 2:] == ABSENT).all()


def test_what_a_key_likes_at_another_time_is_no_hard_negative_of_it() -> None:
    pairs = some_pairs()
    liked = KnownPositives.of(np.array([0, 0, 999]), np.array([4, 1, 2]))
    found = pairs.without_liked(liked).hard_rows
    assert (found[0] == ABSENT).all()
    np.testing.assert_array_equal(found[1:], 4)


def test_settings_that_would_leave_a_term_without_negatives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"time negatives alone needs a queue; received 0"):
        CsftConfig(terms=(ContrastTerm(pools=("time",)),), queue_size=0)
    with pytest.raises(ConfigError, match=r"at most encoder.embedding_dim; received \(999,"):
        StagesConfig(csft=CsftConfig(terms=(ContrastTerm(dimension=999),)))
    assert (PretrainConfig(trainable="top-2").top_blocks, PretrainConfig(trainable="head").top_blocks) == (2, 0)
    with pytest.raises(ConfigError, match=r"pretrain.trainable is all, top-N or head; received 'top-0'"):
        PretrainConfig(trainable="top-0")
