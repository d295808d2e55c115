"""Ranking examples as a table of numbers for a gradient-boosted tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.columns import Columns, lists_to_matrix, take
from components.examples import read_split
from components.history_gen.span_statistics import FIELDS
from components.item_attributes import LEARNED

LISTS = ("history_item_ids", "history_ages", "statistics")
HISTORY = 50  # latest clicks that a candidate is compared with
COMPARED_ROWS = 1_024  # at a time, with their histories' vectors
SMOOTHING = 20.0  # impressions that the overall click rate counts for in each click rate
CATEGORIES = 254  # values of a context feature; scikit-learn's limit
FOLDS = 5
Score = Callable[[list[bytes]], np.ndarray]


@dataclass
class Rows:
    """n rows.

    Attributes:
        user: Codes, int [n].
        rates: Log-odds of the click rate of the item and of the user in training, without the row's own fold, and of
            all together, float [n, 3].
        label: 0 or 1, float [n].
        segment: bytes [n].
        features: float32 [n, features], NaN where unknown.
    """

    user: np.ndarray
    rates: np.ndarray
    label: np.ndarray
    segment: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class ItemContent:
    """What is compared of items; row 0 is padding and unknown items.

    Attributes:
        item_ids: In order, without row 0.
        vectors: Content embeddings, float32 [items + 1, d].
        attributes: Codes, int32 [items + 1, slots]; 0 is no value.
        slots: How many columns of `attributes` each attribute has.
    """

    item_ids: pa.Array
    vectors: np.ndarray
    attributes: np.ndarray
    slots: tuple[int, ...]


class RowReader:
    """Reads splits of the ranking examples in `folder`.

    Args:
        folder: Of the Examples artifact.
        content: Of the items.
        context: Kinds of the features of impressions and users, by name: `categorical` or `number`.
        entities: Whose counts the statistics are, the overall counts first; none for no statistics.  Those of
            attributes that are learned from content are left out.
    """

    def __init__(self, folder: str, content: ItemContent, context: dict[str, str], entities: Sequence[str]) -> None:
        self._folder, self._content, self._context, self._entities = folder, content, context, len(entities)
        self._declared = [place for place, name in enumerate(entities) if name.rpartition(" x ")[2] not in LEARNED]
        self._users: pa.Array = pa.array([], pa.binary())
        self._codes: dict[str, pa.Array] = {}
        self._trained = np.zeros((3, 0), np.int64)  # user, item and label of all training rows

    @property
    def categorical(self) -> list[bool]:
        """Which of the features are codes of categories."""
        return [kind == "categorical" for kind in self._context.values()]

    def read(self, split: str, sample: int, score: Score | None = None) -> tuple[Rows, np.ndarray]:
        """A split's rows, and the score of each.

        Args:
            split: `train` first: it sets the codes of the categories.
            sample: About so many rows at most, drawn at random.
            score: Serialised rows → scores, float [n]; None: there are none.
        """
        names = ("user_id", "item_id", "clicked", "segment", *LISTS, *self._context)
        if split == "train":
            self._learn_codes(split)
            total = self._trained.shape[1]
        else:
            total = sum(len(records) for records, _ in read_split(self._folder, split, LISTS, ("item_id",)))
        share, rng = sample / max(total, 1), np.random.default_rng(0)
        kept: list[Columns] = []
        features: list[np.ndarray] = []
        scores: list[np.ndarray] = [np.zeros(0)]
        places: list[np.ndarray] = []
        begin = 0
        for records, columns in read_split(self._folder, split, LISTS, names):
            chosen = np.flatnonzero(rng.random(len(records)) < share)
            places.append(chosen + begin)
            begin += len(records)
            if not len(chosen):
                continue
            columns = take(columns, chosen)
            features.append(self._features(columns))
            kept.append({name: columns[name] for name in ("user_id", "item_id", "clicked", "segment")})
            if score is not None:
                scores.append(score([records[row] for row in chosen]))
        if not kept:
            none = np.zeros(0, np.int64)
            return Rows(none, np.zeros((0, 3)), none, none, np.zeros((0, 1), np.float32)), scores[0]
        joined = {name: pa.concat_arrays([one[name] for one in kept]) for name in kept[0]}
        user, item = self._user_codes(joined["user_id"]), self._item_rows(joined["item_id"])
        rows = Rows(
            user=user,
            rates=self._rates(user, item, np.concatenate(places) if split == "train" else None),
            label=joined["clicked"].to_numpy(zero_copy_only=False).astype(np.float64),
            segment=np.array(joined["segment"].to_pylist()),
            features=np.concatenate(features),
        )
        return rows, np.concatenate(scores)

    def _learn_codes(self, split: str) -> None:
        names = ("user_id", *(name for name, kind in self._context.items() if kind == "categorical"))
        batches = [columns for _, columns in read_split(self._folder, split, LISTS, (*names, "item_id", "clicked"))]
        if not batches:
            return
        for name in names:
            found = pc.value_counts(pa.concat_arrays([columns[name] for columns in batches]))
            order = pc.sort_indices(found.field("counts"), sort_keys=[("", "descending")])
            values = found.field("values").take(order)
            self._codes[name] = values if name == "user_id" else values[:CATEGORIES]
        self._users = self._codes["user_id"]
        joined = {name: pa.concat_arrays([columns[name] for columns in batches]) for name in ("item_id", "clicked")}
        users = self._user_codes(pa.concat_arrays([columns["user_id"] for columns in batches]))
        label = joined["clicked"].to_numpy(zero_copy_only=False)
        self._trained = np.stack([users, self._item_rows(joined["item_id"]), label])

    def _rates(self, user: np.ndarray, item: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """`Rows.rates`; `places` are those of the rows among the training rows, None for other splits."""
        users, items, label = self._trained
        found = [log_odds(code, label, of, places) for code, of in ((items, item), (users, user))]
        everything = log_odds(np.zeros_like(users), label, np.zeros_like(user))
        return np.stack([*found, everything], axis=1)

    def _user_codes(self, values: pa.Array) -> np.ndarray:
        """Codes from 1; users who are not in training have their own, behind them."""
        known = pc.fill_null(pc.index_in(values, value_set=self._users), -1).to_numpy(zero_copy_only=False)
        encoded = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        codes: np.ndarray = np.where(known >= 0, known + 1, len(self._users) + 1 + encoded)
        return codes

    def _item_rows(self, values: pa.Array) -> np.ndarray:
        found = pc.fill_null(pc.index_in(values, value_set=self._content.item_ids), -1)
        return found.to_numpy(zero_copy_only=False).astype(np.int64) + 1

    def _features(self, columns: Columns) -> np.ndarray:
        parts = [self._context_codes(columns)]
        if self._entities:
            statistics = columns["statistics"]
            width = len(statistics.flatten()) // len(statistics)
            matrix, end = lists_to_matrix(statistics, width), len(FIELDS) * self._entities
            counts = matrix[:, :end].reshape(len(matrix), self._entities, len(FIELDS))[:, self._declared]
            declared = np.concatenate([counts.reshape(len(matrix), -1), matrix[:, end:]], axis=1)
            parts.append(rates_of(declared, len(self._declared)))
        parts.append(self._compared(columns))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _context_codes(self, columns: Columns) -> np.ndarray:
        found = np.full((len(columns["item_id"]), len(self._context)), np.nan)
        for place, (name, kind) in enumerate(self._context.items()):
            if kind == "categorical":
                codes = pc.index_in(columns[name], value_set=self._codes[name])
                found[:, place] = pc.cast(codes, pa.float64()).to_numpy(zero_copy_only=False)
            else:
                found[:, place] = [_number(value) for value in columns[name].to_pylist()]
        return found

    def _compared(self, columns: Columns) -> np.ndarray:
        """Of candidate and history: length, cosine (mean, largest, last), and the share that has a value of each
        attribute of the candidate."""
        lists, item = columns["history_item_ids"], self._item_rows(columns["item_id"])
        rows, offsets = self._item_rows(lists.flatten()), lists.offsets.to_numpy() - lists.offsets[0].as_py()
        size = np.minimum(np.diff(offsets), HISTORY)
        inside = np.arange(HISTORY)[None, :] < size[:, None]
        history = np.zeros(inside.shape, np.int64)
        history[inside] = rows[((offsets[1:] - size)[:, None] + np.arange(HISTORY))[inside]]
        parts = [slice(begin, begin + COMPARED_ROWS) for begin in range(0, len(item), COMPARED_ROWS)]
        compared = [self._compare(item[part], history[part], size[part]) for part in parts]
        return np.concatenate([np.log1p(np.diff(offsets))[:, None], np.concatenate(compared)], axis=1)

    def _compare(self, item: np.ndarray, history: np.ndarray, size: np.ndarray) -> np.ndarray:
        content = self._content
        cosine = np.einsum("bld,bd->bl", content.vectors[history], content.vectors[item])
        known = (history > 0) & content.vectors[history].any(axis=-1) & content.vectors[item].any(axis=-1)[:, None]
        empty = ~known.any(axis=1)
        mean = np.sum(cosine * known, axis=1) / np.maximum(known.sum(axis=1), 1)
        largest = np.max(np.where(known, cosine, -2.0), axis=1, initial=-2.0)
        last = np.maximum(size - 1, 0)
        columns = [mean, largest, np.where(known, cosine, np.nan)[np.arange(len(item)), last]]
        columns[:2] = [np.where(empty, np.nan, values) for values in columns[:2]]
        begin = 0
        for slots in content.slots:
            own = slice(begin, begin + slots)
            target, seen = content.attributes[item][:, own], content.attributes[history][:, :, own]
            equal = (seen[..., None] == np.where(target == 0, -1, target)[:, None, None, :]).any(axis=(2, 3))
            columns.append(np.where(size > 0, equal.sum(axis=1) / np.maximum(size, 1), np.nan))
            begin += slots
        return np.stack(columns, axis=1)


def rates_of(statistics: np.ndarray, entities: int) -> np.ndarray:
    """Counts of each entity → log-odds of the click rate, shares of impressions, days since the click; and ages."""
    counts = statistics[:, : len(FIELDS) * entities].reshape(-1, entities, len(FIELDS)).astype(np.float64)
    overall, counts = counts[:, :1], counts[:, 1:]
    impressions, clicks, seconds = counts[..., 0], counts[..., 1], counts[..., 2]
    prior = (overall[..., 1] + 1) / (overall[..., 0] + 2)
    rate = np.clip((clicks + SMOOTHING * prior) / (impressions + SMOOTHING), 1e-6, 1 - 1e-6)
    ages = statistics[:, len(FIELDS) * entities :].astype(np.float64)
    days = [np.where(values >= 0, values / 86_400, np.nan) for values in (seconds, ages)]
    return np.concatenate([np.log(rate / (1 - rate)), impressions / (overall[..., 0] + 1), *days], axis=1)


def log_odds(code: np.ndarray, label: np.ndarray, of: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """Smoothed log-odds of the click rate of each code of `of`, from the rows (`code`, `label`).

    Args:
        code: int [n].
        label: [n].
        of: Codes, int [m]; one that is not among `code` has the overall rate.
        places: Where `of` are rows of `code`: which; then a row counts neither itself nor the others of its fold.
    """
    size = int(max(code.max(initial=0), of.max(initial=0))) + 1
    shown, clicked = np.bincount(code, minlength=size), np.bincount(code, label, size)
    impressions, clicks = shown[of].astype(np.float64), clicked[of].astype(np.float64)
    if places is not None:
        _, cell = np.unique(code * FOLDS + np.arange(len(code)) % FOLDS, return_inverse=True)
        impressions -= np.bincount(cell)[cell[places]]
        clicks -= np.bincount(cell, label)[cell[places]]
    prior = (label.sum() + 1) / (len(label) + 2)
    rate = (clicks + SMOOTHING * prior) / (impressions + SMOOTHING)
    found: np.ndarray = np.log(rate / (1 - rate))
    return found


def _number(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
