"""Statistics of a user and candidate items, from a table that is exported with the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mim_keras.serving.attribute_inputs import string_table

NEVER = int(np.iinfo(np.int64).min)  # the last click of what was never clicked
NO_CLICK = -1  # seconds since it
NO_CODE = -1  # of a value that was never counted
EMPTY = (0, 0, NEVER)


@dataclass(frozen=True)
class AttributeCounts:
    """Counts of one item attribute; a value is a code, 0 or more.

    Attributes:
        values: bytes [values], by code.
        counts: Of each value, int64 [values, 3].
        item_offsets: The values of row r of the item table are `item_values[item_offsets[r]:item_offsets[r + 1]]`,
            int64 [rows + 1].
        item_values: int64 [sum].
        user_offsets: The same of each user, int64 [users + 1]; row 0 is an unknown user.
        user_values: Ascending within a user, int64 [pairs].
        user_counts: Of each pair of a user and a value, int64 [pairs, 3].
    """

    values: np.ndarray
    counts: np.ndarray
    item_offsets: np.ndarray
    item_values: np.ndarray
    user_offsets: np.ndarray
    user_values: np.ndarray
    user_counts: np.ndarray


@dataclass(frozen=True)
class StatisticsTable:
    """Counts as of one moment: impressions, clicks, and the time of the last click in seconds since 1970, or `NEVER`.

    Attributes:
        as_of: The moment, seconds since 1970.
        overall: Counts of all, int64 [3].
        items: Counts by row of the item table, int64 [rows, 3]; row 0 is padding.
        user_ids: bytes [users].
        users: Counts by user, int64 [users + 1, 3]; row 0 is an unknown user.
        attributes: By name, in the order of the ranker's statistics.
        dates: Of the items, seconds since 1970, int64 [rows, dates]; 0 for an unknown one.
    """

    as_of: int
    overall: np.ndarray
    items: np.ndarray
    user_ids: np.ndarray
    users: np.ndarray
    attributes: dict[str, AttributeCounts]
    dates: np.ndarray


class StatisticsLookup(tf.Module):
    """A user and candidates → counts of all, of the candidate, of the user, and for each attribute of the candidate's
    values and of the user with these values, in this order; those of several values are added.  Then the ages of the
    candidate's dates.

    Args:
        table: What is looked up.

    Example:
        >>> import numpy as np, tensorflow as tf
        >>> from mim_keras.serving.statistics_lookup import NEVER, StatisticsLookup, StatisticsTable
        >>> empty = (0, 0, NEVER)
        >>> items = np.array([empty, (5, 1, 40)])
        >>> users = np.array([empty, (3, 0, NEVER)])
        >>> dates = np.array([[0], [70]])
        >>> table = StatisticsTable(100, np.array([8, 1, 40]), items, np.array([b"anna"]), users, {}, dates)
        >>> StatisticsLookup(table)(tf.constant(["anna"]), tf.constant([1])).numpy().tolist()
        [[8, 1, 60, 5, 1, 60, 3, 0, -1, 30]]
    """

    def __init__(self, table: StatisticsTable) -> None:
        super().__init__()
        self._user_row = string_table({user: row for row, user in enumerate(table.user_ids, 1)}, 0)
        self._as_of = table.as_of

        def kept(values: np.ndarray) -> tf.Variable:
            return tf.Variable(np.asarray(values, np.int64), trainable=False)

        self._overall, self._items, self._users = kept(table.overall), kept(table.items), kept(table.users)
        self._dates = kept(table.dates)
        self._names = tuple(table.attributes)
        self._attributes = [
            {name: kept(values) for name, values in vars(one).items() if name != "values"}
            for one in table.attributes.values()
        ]
        self._codes = [
            string_table({value: code for code, value in enumerate(one.values)}, NO_CODE)
            for one in table.attributes.values()
        ]

    def __call__(
        self, user_id: tf.Tensor, rows: tf.Tensor, given: Mapping[str, tf.RaggedTensor] | None = None
    ) -> tf.Tensor:
        """Looks up.

        Args:
            user_id: string [1].
            rows: Of the item table, int [N].
            given: Values that replace a candidate's own, by attribute, string [N, None]; a candidate without any keeps
                its own.

        Returns:
            Impressions, clicks and seconds since the last click (-1 for none) of each, and seconds since each date (-1
            for an unknown one), int64 [N, 3 · (3 + 2 · attributes) + dates].
        """
        count = tf.size(rows)
        user = self._user_row.lookup(user_id)[0]
        parts = [tf.tile(self._overall[None], [count, 1]), tf.gather(self._items, rows)]
        parts.append(tf.tile(tf.gather(self._users, user)[None], [count, 1]))
        for name, attribute, codes in zip(self._names, self._attributes, self._codes, strict=True):
            values = _item_values(attribute, rows)
            if given and name in given:
                values = _replaced(values, given[name], codes)
            parts += _attribute_counts(attribute, user, values)
        counts = tf.stack(parts, axis=1)
        last_click = counts[..., 2]
        age = tf.where(last_click == NEVER, tf.constant(NO_CLICK, tf.int64), self._as_of - last_click)
        counted = tf.reshape(tf.stack([counts[..., 0], counts[..., 1], age], axis=-1), [count, 3 * len(parts)])
        dates = tf.gather(self._dates, rows)
        since = tf.where(dates == 0, tf.constant(NO_CLICK, tf.int64), tf.maximum(self._as_of - dates, 0))
        return tf.concat([counted, since], axis=1)


def _item_values(attribute: dict[str, Any], rows: tf.Tensor) -> tf.RaggedTensor:
    """The values of each candidate, int64 [N, None]."""
    begin, end = tf.gather(attribute["item_offsets"], rows), tf.gather(attribute["item_offsets"], rows + 1)
    indices = tf.ragged.range(begin, end)
    return indices.with_flat_values(tf.gather(attribute["item_values"], indices.flat_values))


def _replaced(values: tf.RaggedTensor, given: tf.RaggedTensor, codes: tf.lookup.StaticHashTable) -> tf.RaggedTensor:
    """The values given, where a candidate has any; one that was never counted is none."""
    keep = tf.repeat(given.row_lengths() == 0, values.row_lengths())
    kept = tf.ragged.boolean_mask(values, values.with_flat_values(keep))
    known = given.with_flat_values(codes.lookup(given.flat_values))
    return tf.concat([kept, tf.ragged.boolean_mask(known, known != NO_CODE)], axis=1)


def _attribute_counts(attribute: dict[str, Any], user: tf.Tensor, of_candidates: tf.RaggedTensor) -> list[tf.Tensor]:
    """Counts of the values of each candidate, and of the user with these values, int64 [N, 3] each."""
    values, candidate, count = of_candidates.flat_values, of_candidates.value_rowids(), of_candidates.nrows()
    own = slice(attribute["user_offsets"][user], attribute["user_offsets"][user + 1])
    # One pair that no value matches, so that a user without any can be searched.
    known = tf.concat([attribute["user_values"][own], [tf.int64.max]], axis=0)
    counts = tf.concat([attribute["user_counts"][own], [EMPTY]], axis=0)
    index = tf.searchsorted(known, values)
    matches = tf.gather(known, index) == values
    pairs = tf.where(matches[:, None], tf.gather(counts, index), tf.constant([EMPTY], tf.int64))
    return [_sum(one, candidate, count) for one in (tf.gather(attribute["counts"], values), pairs)]


def _sum(counts: tf.Tensor, candidate: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    sums = tf.math.unsorted_segment_sum(counts[:, :2], candidate, count)
    last_click = tf.math.unsorted_segment_max(counts[:, 2:], candidate, count)  # the least int64, NEVER, for none
    return tf.concat([sums, last_click], axis=1)
