"""Hard negatives that are drawn, and those that are left out."""

from __future__ import annotations

import numpy as np
import pytest

from mim_keras.config import ConfigError, CsftConfig, InfoNCETerm, PretrainConfig, StagesConfig, TrainingConfig
from mim_keras.layers import KnownPositives
from mim_keras.layers.base import PADDING_ROW
from tfx_pipeline.run_fns.pair_figures import pair_figures
from tfx_pipeline.run_fns.pairs import Pairs

CATEGORIES = [["a"], ["a", "b"], ["b"], [], ["c"]]


def some_pairs() -> Pairs:
    item_row = np.repeat(np.arange(1, 6), 200).astype(np.int32)
    key = np.arange(1000, dtype=np.int32)
    query = np.full((1000, 1), 3, np.int32)
    return Pairs(query, item_row, np.full((1000, 2), 4, np.int32), key, np.zeros(1000, bool), np.zeros(1000, np.int8))


def pairs_of(key: list[int], item: list[int], signal: list[int]) -> Pairs:
    n = len(key)
    table = np.full((n, 1), PADDING_ROW, np.int32)
    keys, items = np.array(key, np.int32), np.array(item, np.int32)
    query = 101 + keys[:, None]  # a content of its own for each key
    return Pairs(query, items, table, keys, np.ones(n, bool), np.array(signal, np.int8))


def test_items_of_a_category_are_drawn_and_nothing_else() -> None:
    found = some_pairs().with_same_category(CATEGORIES, 3, seed=1)
    assert found.hard_rows.shape == (1000, 5)
    np.testing.assert_array_equal(found.hard_rows[:, :2], 4)
    drawn = [set(found.hard_rows[found.item_row == item, 2:].ravel().tolist()) for item in range(1, 6)]
    assert drawn == [{2, PADDING_ROW}, {1, 3, PADDING_ROW}, {2, PADDING_ROW}, {PADDING_ROW}, {PADDING_ROW}]
    again = some_pairs().with_same_category(CATEGORIES, 3, seed=1)
    np.testing.assert_array_equal(again.hard_rows, found.hard_rows)
    none = some_pairs().with_same_category([[]] * 5, 3, seed=1)
    assert (none.hard_rows[:, 2:] == PADDING_ROW).all()


def test_what_a_key_likes_at_another_time_is_no_hard_negative_of_it() -> None:
    pairs = some_pairs()
    liked = KnownPositives.from_pairs(np.array([0, 0, 999]), np.array([4, 1, 2]))
    found = pairs.without_liked(liked).hard_rows
    assert (found[0] == PADDING_ROW).all()
    np.testing.assert_array_equal(found[1:], 4)


def test_settings_that_would_leave_a_term_without_negatives_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"queue negatives only needs csft.queue_size; received 0"):
        CsftConfig(terms=(InfoNCETerm(negatives=("queue",)),), queue_size=0)
    with pytest.raises(ConfigError, match=r"csft.min_signal is one of .*; received 'buy'"):
        CsftConfig(min_signal="buy")  # type: ignore[arg-type]
    for made in (PretrainConfig, CsftConfig):
        with pytest.raises(ConfigError, match=r"training.patience must be 0: .* the ranker .*; received 2"):
            made(training=TrainingConfig(patience=2))
    with pytest.raises(ConfigError, match=r"at most encoder.embedding_dim; received \(999,"):
        StagesConfig(csft=CsftConfig(terms=(InfoNCETerm(prefix_dim=999),)))
    assert (
        PretrainConfig(trainable="top-2").unfreeze_top_blocks,
        PretrainConfig(trainable="head").unfreeze_top_blocks,
    ) == (2, 0)
    with pytest.raises(ConfigError, match=r"pretrain.trainable is all, top-N, lora-R or head; received 'top-0'"):
        PretrainConfig(trainable="top-0")


def test_orders_alone_are_pairs_and_what_was_merely_clicked_stands_against_them() -> None:
    # Key 0 clicked 1 and 2, and 1 again, put 3 into the cart, ordered 3 and 4; key 1 ordered; key 2 clicked alone.
    pairs = pairs_of([0, 0, 0, 0, 0, 0, 1, 2], [1, 2, 1, 3, 3, 4, 5, 1], [0, 0, 0, 1, 2, 2, 2, 0])
    orders = pairs.of_signal("order", seed=1)
    np.testing.assert_array_equal(orders.item_row, [3, 4, 5])
    np.testing.assert_array_equal(orders.query_rows[:, 0], [101, 101, 102])
    assert [set(row.tolist()) for row in orders.hard_rows] == [{1, 2, PADDING_ROW}, {1, 2, PADDING_ROW}, {PADDING_ROW}]
    assert (orders.hard_rows[:, 1:] == 1).sum() == 2  # once, however often it was clicked
    carts = pairs.of_signal("cart", seed=1)
    np.testing.assert_array_equal(carts.item_row, [3, 3, 4, 5])
    assert pairs.of_signal("click", seed=1) is pairs
    assert len(pairs_of([0, 1], [1, 2], [0, 1]).of_signal("order", seed=1)) == 0
    assert len(pairs_of([], [], []).of_signal("order", seed=1)) == 0


def test_of_many_merely_clicked_some_are_taken_each_once() -> None:
    key, item = [0] * 31 + [1, 1], [*range(1, 32), 40, 41]
    orders = pairs_of(key, item, [0] * 30 + [2, 0, 2]).of_signal("order", seed=1)
    hard = orders.hard_rows[:, 1:]
    assert hard.shape == (2, 16)
    assert len(set(hard[0].tolist()) - {PADDING_ROW}) == 16
    assert hard[0].max() < 31
    assert hard[1].tolist() == [40] + [PADDING_ROW] * 15


def test_recall_is_told_by_signal_and_by_how_well_the_item_was_known() -> None:
    joint = np.zeros((104, 4), np.float32)
    joint[:4], joint[100:] = np.eye(4), np.eye(4)  # query 101 + k is item 1 + k
    joint[4:100] = 0.5  # as near to any as to another, and nearer than a wrong item
    held_out = pairs_of([0, 1, 2, 3], [1, 2, 4, 4], [0, 2, 2, 0])  # the third leads elsewhere
    trained = pairs_of([0] * 8, [1] * 6 + [2] * 2, [0] * 8)
    found = pair_figures(joint, held_out, trained, items=100)
    assert found["recall_at_10"] == {
        "intents": 0.75,
        "intents: click": 1.0,
        "intents: order": 0.5,
        "intents: item of no training pair": 0.5,
        "intents: item of 1 to 5": 1.0,
        "intents: item of 6 or more": 1.0,
    }
    assert list(found["pairs"].values()) == [4, 2, 2, 2, 1, 1]
    assert found["chance"] == 0.1
    assert pair_figures(joint, pairs_of([], [], []), trained, items=100)["recall_at_10"] == {}
