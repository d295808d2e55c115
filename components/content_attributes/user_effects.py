"""How much users differ in what they click: the variance of a random effect of user and value."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from components.columns import Columns

MAX_ROWS, MAX_ROWS_OF_USER = 2_000_000, 1_000  # impressions that are looked at; of a user, where there are more
PRIOR = 1.0  # variance of the effects of users and items, in log-odds
ROUNDS = 10
PAIRS = 200_000  # of users and items that are looked at together
DRAWS = 10
Z_MIN = 3.0  # standard deviations above chance, of a whole attribute
LEAST_Z = 2.0  # of a single value
FALSE_SHARE = 0.05  # of single values that are found, those that chance finds too


@dataclass(frozen=True)
class Activity:
    """What users saw and clicked, and what is expected of them without any taste.

    A click's log-odds are the sum of an effect of the user and one of the item, fitted to the clicks.

    Attributes:
        shown: Impressions of each user and item, [users, items].
        clicked: Clicks, in the same order as `shown`, [pairs].
        rate: Expected click rates, likewise.
    """

    shown: sp.csr_matrix
    clicked: np.ndarray
    rate: np.ndarray

    @staticmethod
    def of_impressions(batches: Iterable[Columns], item_ids: pa.Array) -> Activity:
        """From batches of `user_id`, `item_id` and `clicked`; of more than `MAX_ROWS` rows, those of users drawn by a
        hash, and of a user at most `MAX_ROWS_OF_USER`.

        Args:
            batches: Of the training split.
            item_ids: binary [items]; rows of other items are left out.
        """
        rows, limit = np.zeros((3, 0), np.int64), 1 << 32  # hash of the user, item, label
        for columns in batches:
            users = columns["user_id"].dictionary_encode()
            hashes = np.array([zlib.crc32(user) for user in users.dictionary.to_pylist()], np.int64)
            item = pc.fill_null(pc.index_in(columns["item_id"], value_set=item_ids), -1).to_numpy(zero_copy_only=False)
            label = columns["clicked"].to_numpy(zero_copy_only=False)
            more = np.stack([hashes[users.indices.to_numpy(zero_copy_only=False)], item, label])
            rows = np.concatenate([rows, more[:, (item >= 0) & (more[0] < limit)]], axis=1)
            if rows.shape[1] > MAX_ROWS:
                rows = _first_of_users(rows, MAX_ROWS_OF_USER)
            while rows.shape[1] > MAX_ROWS:
                limit //= 2
                rows = rows[:, rows[0] < limit]
        _, user = np.unique(rows[0], return_inverse=True)
        size = (int(user.max(initial=-1)) + 1, len(item_ids))
        shown = sp.csr_matrix((np.ones(len(user)), (user, rows[1])), size)
        clicked = sp.csr_matrix((rows[2] + 1e-9, (user, rows[1])), size)  # no pair is left out for want of a click
        for counts in (shown, clicked):
            counts.sum_duplicates()
        clicks = np.rint(clicked.data)
        return Activity(shown, clicks, expected_rates(shown, clicks))

    def weighted(self, values: np.ndarray) -> sp.csr_matrix:
        """A matrix of `values` [pairs] at the pairs, [users, items]."""
        return sp.csr_matrix((values, self.shown.indices, self.shown.indptr), self.shown.shape)


def _first_of_users(rows: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(rows[0], kind="stable")
    user = rows[0, order]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    return rows[:, np.sort(order[place < count])]


def expected_rates(shown: sp.csr_matrix, clicked: np.ndarray) -> np.ndarray:
    """Click rates by an effect of the user and one of the item, which add up in log-odds, [pairs]."""
    user, item = np.repeat(np.arange(shown.shape[0]), np.diff(shown.indptr)), shown.indices
    overall = (clicked.sum() + 1) / (shown.data.sum() + 2)
    effects = [np.zeros(size) for size in shown.shape]

    def rates() -> np.ndarray:
        return 1 / (1 + np.exp(-(np.log(overall / (1 - overall)) + effects[0][user] + effects[1][item])))

    for _ in range(ROUNDS):
        for effect, code in zip(effects, (user, item), strict=True):
            rate = rates()
            slope = np.bincount(code, clicked - shown.data * rate, len(effect)) - effect / PRIOR
            effect += slope / (np.bincount(code, shown.data * rate * (1 - rate), len(effect)) + 1 / PRIOR)
    return rates()


@dataclass(frozen=True)
class UserEffects:
    """Of each value of an attribute: do users differ in it, beyond the effects of users and items?

    Attributes:
        excess: Squared deviations from the expected clicks, less what chance alone makes of them, [values].
        deviation: The standard deviation of `excess` where users do not differ, [values].
        by_chance: `excess` of clicks that were drawn at the expected rates, [draws, values].
        gain: Expected gain in log-likelihood from knowing each user's effect as precisely as the impressions allow,
            [values].
    """

    excess: np.ndarray
    deviation: np.ndarray
    by_chance: np.ndarray
    gain: np.ndarray


def user_effects(activity: Activity, members: sp.csr_matrix, pooled: bool = False) -> UserEffects:
    """The effects of users and values.

    With v the variance of a user's clicks on the items of a value, a random effect of variance τ² in the log-odds adds
    v² τ² to it.

    Args:
        activity: Of the training split.
        members: 0/1, [items, values].
        pooled: One τ² for the gain of all values, in place of one each.
    """
    impressions, rate = activity.shown.data, activity.rate
    rng = np.random.default_rng(0)
    draws = [activity.clicked, *(rng.binomial(impressions.astype(np.int64), rate) for _ in range(DRAWS))]
    deviations = [activity.weighted(clicks - impressions * rate) for clicks in draws]
    variance = activity.weighted(impressions * rate * (1 - rate))
    excess, squares = np.zeros((len(draws), members.shape[1])), np.zeros(members.shape[1])
    spread = np.zeros(members.shape[1])
    for some in _parts(activity.shown):
        own = variance[some] @ members
        for row, deviation in enumerate(deviations):
            excess[row] += _sum((deviation[some] @ members).power(2)) - _sum(own)
        squares += _sum(own.power(2))
        spread += 2 * _sum(own.power(2)) + _sum(own)
    observed = excess[0]
    effect = (
        np.full_like(observed, observed.sum() / max(squares.sum(), 1e-9)) if pooled else observed / (squares + 1e-9)
    )
    effect, gain = np.maximum(effect, 0.0), np.zeros(members.shape[1])
    for some in _parts(activity.shown):
        information = (variance[some] @ members).multiply(effect[None]).tocsr()
        gain += 0.5 * (_sum(information) - _sum(information.log1p()))
    return UserEffects(observed, np.sqrt(spread), excess[1:], gain)


def _parts(shown: sp.csr_matrix) -> Iterator[slice]:
    """Users, about `PAIRS` pairs at a time."""
    ends = np.unique(np.searchsorted(shown.indptr, np.arange(0, shown.nnz + PAIRS, PAIRS)).clip(max=shown.shape[0]))
    yield from (slice(int(begin), int(end)) for begin, end in pairwise(ends))


def _sum(matrix: sp.spmatrix) -> np.ndarray:
    return np.asarray(matrix.sum(axis=0)).ravel()


def best_attribute(activity: Activity, attributes: list[sp.csr_matrix]) -> int | None:
    """The attribute of the largest gain among those in which users differ; None where they differ in none.

    Args:
        activity: Of the training split.
        attributes: Values of the items, 0/1 [items, values] each.
    """
    best, most = None, 0.0
    for place, members in enumerate(attributes):
        found = user_effects(activity, members, pooled=True)
        spread = max(float(np.sqrt((found.deviation**2).sum())), 1e-9)
        above = (found.excess.sum() - found.by_chance.sum(axis=1).mean()) / spread
        if above > Z_MIN and found.gain.sum() > most:
            best, most = place, float(found.gain.sum())
    return best


def values_that_matter(activity: Activity, members: sp.csr_matrix) -> np.ndarray:
    """The values in which users differ, the largest gain first; about `FALSE_SHARE` of them are found by chance.

    Args:
        activity: Of the training split.
        members: 0/1, [items, values].
    """
    effects = user_effects(activity, members)
    spread = np.maximum(effects.deviation, 1e-9)
    found, drawn = effects.excess / spread, np.sort((effects.by_chance / spread).ravel())
    order = np.argsort(-found, kind="stable")
    by_luck = (len(drawn) - np.searchsorted(drawn, found[order])) / DRAWS
    few = np.flatnonzero(by_luck <= FALSE_SHARE * np.arange(1, len(order) + 1))
    chosen = order[: few[-1] + 1] if len(few) else order[:0]
    chosen = chosen[found[chosen] > LEAST_Z]
    return chosen[np.argsort(-effects.gain[chosen], kind="stable")]
