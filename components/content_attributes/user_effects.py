"""How much users differ in what they click: the variance of a random effect of user and value."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from components.columns import Columns

MAX_ROWS = 2_000_000  # impressions that are looked at; beyond, those of some users
SMOOTHING = 10.0  # impressions of the overall click rate that are added to a user's, and to a value's
MAX_RATE = 0.95  # expected of a user and a value
CELLS = 4_000_000  # users × values that are held at a time
SHUFFLES = 10
Z_MIN = 3.0  # standard deviations above chance, of a whole attribute
FALSE_SHARE = 0.05  # of single values that are found, those that chance finds too


@dataclass(frozen=True)
class Activity:
    """What users saw and clicked.

    Attributes:
        shown: Impressions of each user and item, [users, items].
        clicked: Clicks, likewise.
    """

    shown: sp.csr_matrix
    clicked: sp.csr_matrix

    @staticmethod
    def of_impressions(batches: Iterable[Columns], item_ids: pa.Array) -> Activity:
        """From batches of `user_id`, `item_id` and `clicked`; of more than `MAX_ROWS` rows, those of users drawn by a
        hash.

        Args:
            batches: Of the training split.
            item_ids: binary [items]; rows of other items are left out.
        """
        kept: list[tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]] = []
        rows, limit = 0, 1 << 32
        for columns in batches:
            users = columns["user_id"].dictionary_encode()
            codes = np.array([zlib.crc32(user) for user in users.dictionary.to_pylist()], np.int64)
            item = pc.fill_null(pc.index_in(columns["item_id"], value_set=item_ids), -1).to_numpy(zero_copy_only=False)
            label = columns["clicked"].to_numpy(zero_copy_only=False)
            drawn = codes[users.indices.to_numpy(zero_copy_only=False)]
            kept.append(_rows((columns["user_id"], drawn, item, label), (item >= 0) & (drawn < limit)))
            rows += len(kept[-1][1])
            while rows > MAX_ROWS:
                limit //= 2
                kept = [_rows(one, one[1] < limit) for one in kept]
                rows = sum(len(one[1]) for one in kept)
        if not rows:
            none = sp.csr_matrix((0, len(item_ids)), dtype=np.float32)
            return Activity(none, none)
        user = pa.concat_arrays([one[0] for one in kept]).dictionary_encode().indices.to_numpy(zero_copy_only=False)
        item, label = (np.concatenate([one[place] for one in kept]) for place in (2, 3))
        size = (int(user.max()) + 1, len(item_ids))
        shown, clicked = (
            sp.csr_matrix((values.astype(np.float32), (user, item)), size) for values in (np.ones(rows), label)
        )
        return Activity(shown, clicked)


def _rows(columns: tuple[pa.Array, ...], mask: np.ndarray) -> tuple[pa.Array, ...]:
    return tuple(one.filter(pa.array(mask)) if isinstance(one, pa.Array) else one[mask] for one in columns)


@dataclass(frozen=True)
class UserEffects:
    """Of each value of an attribute: do users differ in it, beyond their own click rates and the value's?

    Attributes:
        excess: Squared deviations from the expected clicks, less what chance alone makes of them, [values].
        deviation: The standard deviation of `excess` where users do not differ, [values].
        gain: Expected gain in log-likelihood from knowing each user's effect as precisely as the impressions allow,
            [values].
    """

    excess: np.ndarray
    deviation: np.ndarray
    gain: np.ndarray

    @property
    def z_scores(self) -> np.ndarray:
        """Of each value, [values]."""
        return self.excess / np.maximum(self.deviation, 1e-9)

    @property
    def z_score(self) -> float:
        """Of all values together."""
        return float(self.excess.sum() / max(np.sqrt((self.deviation**2).sum()), 1e-9))


def user_effects(activity: Activity, members: sp.csr_matrix, pooled: bool = False) -> UserEffects:
    """The effects of users and values.

    With e expected clicks of S impressions, v = e (1 - e / S) is their variance, and a random effect of variance τ² in
    the log-odds adds v² τ².

    Args:
        activity: Of the training split.
        members: 0/1, [items, values].
        pooled: One τ² for all values, in place of one each.
    """
    impressions, clicks = activity.shown.sum(), activity.clicked.sum()
    overall = clicks / max(impressions, 1.0)
    of_values = [np.asarray(counts.sum(axis=0) @ members).ravel() for counts in (activity.shown, activity.clicked)]
    value_rate = (of_values[1] + SMOOTHING * overall) / (of_values[0] + SMOOTHING)
    of_users = [np.asarray(counts.sum(axis=1)).ravel() for counts in (activity.shown, activity.clicked)]
    user_rate = (of_users[1] + SMOOTHING * overall) / (of_users[0] + SMOOTHING) / max(overall, 1e-9)

    def cells() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(Squared deviations less their variance, variances), [users, values], some users at a time."""
        step = max(1, CELLS // max(members.shape[1], 1))
        for begin in range(0, activity.shown.shape[0], step):
            some = slice(begin, begin + step)
            shown, clicked = ((counts[some] @ members).toarray() for counts in (activity.shown, activity.clicked))
            rate = np.minimum(user_rate[some, None] * value_rate, MAX_RATE)
            variance = shown * rate * (1 - rate)
            yield (clicked - shown * rate) ** 2 - variance, variance

    excess, squares, spread = (np.zeros(members.shape[1]) for _ in range(3))
    for over, variance in cells():
        excess += over.sum(axis=0)
        squares += (variance**2).sum(axis=0)
        spread += (2 * variance**2 + variance).sum(axis=0)
    effect = excess.sum() / max(squares.sum(), 1e-9) if pooled else excess / np.maximum(squares, 1e-9)
    effect, gain = np.maximum(effect, 0.0), np.zeros(members.shape[1])
    for _, variance in cells():
        information = variance * effect
        gain += 0.5 * (information - np.log1p(information)).sum(axis=0)
    return UserEffects(excess, np.sqrt(spread), gain)


def by_chance(activity: Activity, members: sp.csr_matrix) -> list[UserEffects]:
    """The effects of values that were handed to other items at random."""
    rng = np.random.default_rng(0)
    return [user_effects(activity, members[rng.permutation(members.shape[0])]) for _ in range(SHUFFLES)]


def best_attribute(activity: Activity, attributes: list[sp.csr_matrix]) -> int | None:
    """The attribute of the largest gain among those in which users differ; None where they differ in none.

    Args:
        activity: Of the training split.
        attributes: Values of the items, 0/1 [items, values] each.
    """
    best, most = None, 0.0
    for place, members in enumerate(attributes):
        found = user_effects(activity, members, pooled=True)
        usual = np.mean([one.z_score for one in by_chance(activity, members)])
        if found.z_score - usual > Z_MIN and found.gain.sum() > most:
            best, most = place, float(found.gain.sum())
    return best


def values_that_matter(activity: Activity, members: sp.csr_matrix) -> np.ndarray:
    """The values in which users differ, the largest gain first; among them about `FALSE_SHARE` are found by chance.

    Args:
        activity: Of the training split.
        members: 0/1, [items, values].
    """
    effects = user_effects(activity, members)
    found = effects.z_scores
    shuffled = np.sort(np.concatenate([one.z_scores for one in by_chance(activity, members)]))
    order = np.argsort(-found, kind="stable")
    by_luck = (len(shuffled) - np.searchsorted(shuffled, found[order])) / SHUFFLES
    few = np.flatnonzero(by_luck <= FALSE_SHARE * np.arange(1, len(order) + 1))
    chosen = order[: few[-1] + 1] if len(few) else order[:0]
    chosen = chosen[found[chosen] > 1.0]
    return chosen[np.argsort(-effects.gain[chosen], kind="stable")]
